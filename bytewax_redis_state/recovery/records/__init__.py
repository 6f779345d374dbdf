"""What Redis holds of a flow, each kind of record in a file of its own."""
