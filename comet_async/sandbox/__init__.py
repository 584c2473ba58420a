"""A local server that speaks CometAPI's and Kling's image API, to try and to test against.

Example:
    >>> from comet_async.sandbox import Fault, Sandbox
    >>> async with Sandbox(speed=20) as sandbox:
    ...     sandbox.faults.add(Fault("drop_after_charge"))
    ...     ...  # point a client at sandbox.url
    ...     assert not sandbox.ledger.charged_twice()
"""

from __future__ import annotations

from comet_async.sandbox._faults.proxy import FaultProxy
from comet_async.sandbox._faults.rules import Fault, Faults, Injection
from comet_async.sandbox._faults.toxics import (
    Bandwidth,
    Latency,
    LimitData,
    ResetPeer,
    Slicer,
    SlowClose,
    Timeout,
    Toxic,
)
from comet_async.sandbox._painting.images import EngineChoice
from comet_async.sandbox.callbacks import Delivery
from comet_async.sandbox.ledger import Charge, Ledger, Post
from comet_async.sandbox.options import CallbackOptions, Options
from comet_async.sandbox.results import Leak
from comet_async.sandbox.server import DEFAULT_KEY, Sandbox, serve
from comet_async.sandbox.tasks import SandboxTask, Tasks

__all__ = [
    "DEFAULT_KEY",
    "Bandwidth",
    "CallbackOptions",
    "Charge",
    "Delivery",
    "EngineChoice",
    "Fault",
    "FaultProxy",
    "Faults",
    "Injection",
    "Latency",
    "Leak",
    "Ledger",
    "LimitData",
    "Options",
    "Post",
    "ResetPeer",
    "Sandbox",
    "SandboxTask",
    "Slicer",
    "SlowClose",
    "Tasks",
    "Timeout",
    "Toxic",
    "serve",
]
