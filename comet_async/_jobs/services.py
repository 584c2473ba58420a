"""What all jobs of a session share: the API, the waiter, and what is known about the server."""

from __future__ import annotations

import attrs

from comet_async._http.api import Api
from comet_async._jobs.health import ServerHealth
from comet_async._results.download import Downloader
from comet_async.clock import Clock
from comet_async.events import EventSink
from comet_async.waiter import NotificationSource, TaskWaiter


@attrs.frozen(kw_only=True)
class Services:
    """What every job of a session uses; made once by the session.

    Attributes:
        api: The gateway and the account.
        waiter: Waits for tasks.
        downloader: Fetches results.
        health: What is known about the server.
        account: The identity that the journal records for each job; never a key.
        callbacks: Where notifications arrive, or None.
        events: Where the events of jobs go.
    """

    api: Api
    waiter: TaskWaiter
    downloader: Downloader
    health: ServerHealth
    account: str
    callbacks: NotificationSource | None = None
    events: EventSink = attrs.field(factory=EventSink)

    @property
    def clock(self) -> Clock:
        """The session's clock."""
        return self.api.clock

    @property
    def callback_url(self) -> str | None:
        """Where the server reports changes, unless a request says otherwise."""
        return None if self.callbacks is None else self.callbacks.url
