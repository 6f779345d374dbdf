"""The state backend in memory: the same contract without a server."""
