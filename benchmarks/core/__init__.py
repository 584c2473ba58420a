"""What all parts share: the server, the measuring process, tables and plots."""
