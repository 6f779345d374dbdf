"""The start of a generation: from a claimed lease to an outbox that the engine can load."""
