"""The process that ships outbox rows to Redis, its threads, and who watches it."""
