"""Many state keys behind one key of the engine."""
