"""The runner as people start it: processes, options, signals, bad input."""
