"""Waiting for tasks; `poller` has the theory of operation, and names the other modules."""
