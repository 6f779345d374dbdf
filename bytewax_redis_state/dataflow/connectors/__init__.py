"""Sources and sinks of the flow, wrapped."""
