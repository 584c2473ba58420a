"""Paid jobs, one at a time, from a planned one to its result.

To follow one, read `active` (one caller for each job), `runner` (a job's whole life, with the
theory of operation), `sender` (the one paid request) and `reconcile` (what became of it if its
answer was lost). The other modules serve these:

* `loader`: the images to send.
* `options` and `calls`: how jobs are run, how long a caller waits, and what its error says.
* `keyed_lock`: one caller at a time works on a job.
* `concurrency_limit` and `shared_slots`: who may send, in this process and among several.
* `health`: whether the server can be reached, and answers.
* `services` and `tasks`: what the jobs of a session share, and what its waiters poll.
* `notification_relay`: callbacks, passed on to other processes.
"""
