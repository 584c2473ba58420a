"""How jobs are run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import attrs

from comet_async._journal.records import Limits
from comet_async.models import Task

Busy = Literal["wait", "raise"]
"""What to do while all slots are taken or the server is busy."""


@attrs.frozen(kw_only=True)
class JobOptions:
    """How jobs are run.

    Attributes:
        settle: Seconds after a request whose answer was lost during which its task may still
            appear. 60 by default.
        timeout: Seconds that one job may take until its task has ended; no limit by default.
        limits: What this run may buy.
        run: Name of this run, for those limits.
        verify_remote: Look for each new job on the server before it is sent for the first
            time: for a folder whose journal was lost.
        single: True for one call of a program's. Its time starts at once, and it gives up
            sooner; in a run over many images an image's time starts when it gets its slot.
        until_submitted: Stop when the server has accepted the request.
        busy: Whether to wait or to raise an error while all slots are taken or the server is busy.
        on_submitted: Called with the task once it is accepted, before it is waited for.
    """

    settle: float = 60.0
    timeout: float | None = None
    limits: Limits = attrs.field(factory=Limits)
    run: str = ""
    verify_remote: bool = False
    single: bool = False
    until_submitted: bool = False
    busy: Busy = "wait"
    on_submitted: Callable[[Task], object] | None = None
