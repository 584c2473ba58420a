"""The journal in PostgreSQL; `comet_async.postgres` has the theory of operation."""
