"""Runs: from images, one or thousands, to one outcome each.

`batch` takes images one by one, plans the job of each, and hands it to `comet_async._jobs`. The
other modules serve it:

* `intake` and `source_memory`: which images come first, and which files need not be read again.
* `recording`: jobs that are written down without being run.
* `outcome_log`: outcomes, kept for reports.
"""
