"""What the answers of the server mean, without I/O; `decode` is the way in."""
