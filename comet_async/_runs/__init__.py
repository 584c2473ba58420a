"""Runs: from images, one or thousands, to one outcome each.

To follow an image, read `sources` (where it comes from), `planner` (what it would become), and
`batch` (many at a time; each job is handed to `comet_async._jobs`). The other modules serve these:

* `options`, `journals` and `factory`: what a run may do, which journal it uses, and its setup.
* `items`: an image, before and after its job is planned.
* `intake` and `source_memory`: which images come first, and which files need not be read again.
* `parallel`: work on a stream of items, several at a time.
* `recording`: jobs that are written down without being run.
* `outcome_log`: outcomes, kept for reports.
"""
