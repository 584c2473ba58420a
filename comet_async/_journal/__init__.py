"""The memory of paid jobs; `comet_async.journal` has the theory of operation.

* `records` has what a journal holds, and the protocol of every journal; `shared` has what one of
  several processes can do in addition. `keys` names jobs.
* `states` lists the legal moves of a job; `transitions` says what its record becomes by each.
* `memory` is a journal in memory.
* `database`, `sql`, `rows`, `group_commit` and `lockfile` make up the journal on disk; `repair`
  recovers a damaged one.
"""
