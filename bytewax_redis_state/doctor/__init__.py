"""Whether what Redis holds of a flow is whole."""
