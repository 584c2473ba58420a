"""The sandbox's HTTP API: handlers, checks and the forms of its answers."""
