"""The queue of a fleet, by PGQueuer; `comet_async.fleet` has the theory of operation."""
