"""What a person sees while something works."""
