"""Redis servers: a client, the embedded server, what a server can do, its errors as ours."""
