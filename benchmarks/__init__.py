"""Side by side with other clients, on this machine: ``python -m benchmarks`` or ``nox -s bench``.

How it measures: the server runs in its own process, each client in a fresh one, all in turns,
round after round, so that a busy moment of the machine hits everybody. CPU is what the client's
process used (user and system), memory is the growth of its peak after a warm-up. Only ratios
taken in one run mean anything.

Nothing in ``comet_async`` imports this package, and no other client is a dependency of it.
"""
