"""Standard error, for a person who watches."""
