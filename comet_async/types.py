"""Types that appear in public signatures; programs need them only for their own annotations."""

from __future__ import annotations

from comet_async._backoff import WaitStrategy
from comet_async._images.source import FileIdentity, ImageInput
from comet_async._images.streams import AsyncReadableFile, ByteSource, PillowImage, ReadableFile
from comet_async._jobs.options import Busy
from comet_async._journal.records import (
    Changes,
    Destination,
    JobRecord,
    JournalEvent,
    KnownSource,
    Limits,
    NewJob,
    Refusal,
    SavedFile,
    SavedJob,
    SourceOutcome,
    StoredImage,
)
from comet_async._journal.states import JobState, Move
from comet_async._results.files import Exists
from comet_async._runs.items import Item, Planned
from comet_async._runs.recording import RecordedJob
from comet_async.auth import Credentials
from comet_async.clock import Clock
from comet_async.events import Event, JobEvent, PollEvent
from comet_async.gateways import DownField, LookupForm
from comet_async.geometry import Anchor
from comet_async.models import JSON
from comet_async.runs import Budget
from comet_async.schedules import ScheduleLike
from comet_async.stores import Listing, ObjectInfo, ObjectReader, OpenStore
from comet_async.waiter import HasWaiter, NotificationSource, TaskSource, TaskStream, UseDefault

__all__ = [
    "JSON",
    "Anchor",
    "AsyncReadableFile",
    "Budget",
    "Busy",
    "ByteSource",
    "Changes",
    "Clock",
    "Credentials",
    "Destination",
    "DownField",
    "Event",
    "Exists",
    "FileIdentity",
    "HasWaiter",
    "ImageInput",
    "Item",
    "JobEvent",
    "JobRecord",
    "JobState",
    "JournalEvent",
    "KnownSource",
    "Limits",
    "Listing",
    "LookupForm",
    "Move",
    "NewJob",
    "NotificationSource",
    "ObjectInfo",
    "ObjectReader",
    "OpenStore",
    "PillowImage",
    "Planned",
    "PollEvent",
    "ReadableFile",
    "RecordedJob",
    "Refusal",
    "SavedFile",
    "SavedJob",
    "ScheduleLike",
    "SourceOutcome",
    "StoredImage",
    "TaskSource",
    "TaskStream",
    "UseDefault",
    "WaitStrategy",
]
