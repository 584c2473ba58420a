"""Results: fetched, checked, and saved under their names.

* `save` decides what is saved when, and records it in the journal.
* `download` fetches an image from its URL.
* `outputs` says what an output can do, and is one in a store; `folder` is one on the disk.
* `files` writes files whole or not at all.
"""
