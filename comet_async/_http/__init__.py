"""Exchanges with the server, one at a time.

* `api` has a method for each call of the API, and `balance` for the account's own.
* `transport` sends requests, and `body` encodes what they carry.
* `callback_server` receives callbacks.
"""
