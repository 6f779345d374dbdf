"""The only place that knows Bytewax's Python side: the step tree, sharding, wrapping."""
