"""Images: which ones there are, what they hold, and what is sent of them.

* `discovery` finds the images that sources lead to; `naming` names their results.
* `source` holds `SourceImage`, the image that a user named, as a value.
* `load` checks, hashes and measures one, in the threads of `reader`; `stored` does so for an object
  in a store, and `streams` for open files.
* `rules` says what the API accepts; `prepare` converts what it does not.
* `formats`, `walkers` and `orientation` read the bytes; they never raise.
"""
