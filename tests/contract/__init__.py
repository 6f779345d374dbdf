"""What the design takes for granted about Bytewax: real runs, real SQLite files, no mocks."""
