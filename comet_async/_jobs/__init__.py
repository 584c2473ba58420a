"""Paid jobs, from an image to its outcome.

To follow one image, read `batch` (many images at a time), `active` (one caller for each job),
`runner` (a job's whole life, with the theory of operation), `sender` (the one paid request) and
`reconcile` (what became of it if its answer was lost). The other modules serve these:

* `intake` and `source_memory`: which images come first, and which files need not be read again.
* `calls`: how long a caller waits, and what its error says.
* `admission` and `shared_slots`: who may send, in this process and among several.
* `services` and `tasks`: what the jobs of a session share, and what its waiters poll.
* `notification_relay`: callbacks, passed on to other processes.
* `outcome_log`: outcomes, kept for reports.
"""
