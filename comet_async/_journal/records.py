"""The records of a journal, and the protocol that every journal implements.

Nothing here has a field for an API key, a header or an image, so a journal can't hold one.
"""

from __future__ import annotations

import enum
import functools
import json
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType
from typing import Protocol, TypedDict, Unpack, runtime_checkable

import attrs

from comet_async._journal.states import BILLED, JobState
from comet_async.errors import InputError
from comet_async.models import JSON, ResultImage
from comet_async.secret import redact, repr_redacted

# A request without its image is below 3 kB (Kling's prompts end at 2,500 characters); the
# smallest image that the service takes, 300 x 300 pixels, is far above this.
MAX_PARAMS_BYTES = 16 * 1024

CALLBACK = "callback_url"
"""The parameter that says where the server reports changes: no part of what is bought."""


# Made once: json.dumps makes a new one for each text that is not written its own way.
_JSON = json.JSONEncoder(allow_nan=False)


def _read_only(params: Mapping[str, JSON]) -> Mapping[str, JSON]:
    """Return a deep, read-only copy of *params* that is JSON and small."""
    try:
        text = _JSON.encode(dict(params))
    except (TypeError, ValueError) as error:
        raise InputError(f"a journal holds JSON only: {error}", field="params") from None
    if len(text) > MAX_PARAMS_BYTES:
        raise InputError(
            f"the parameters are {len(text)} bytes long; an image does not belong in a journal",
            field="params",
            limit=f"<= {MAX_PARAMS_BYTES} bytes",
        )
    return MappingProxyType(json.loads(text))


@functools.lru_cache(maxsize=64)  # a session has one account
def _shows_key(account: str) -> bool:
    return redact(account) != account


def _no_secret(_job: object, field: attrs.Attribute[str], value: str) -> None:
    if _shows_key(value):
        raise InputError(f"{field.name} looks like a key; a journal never holds one")


def _repr_params(params: Mapping[str, JSON]) -> str:
    return repr({name: value for name, value in params.items() if name != CALLBACK})  # a token


@attrs.frozen(kw_only=True)
class NewJob:
    """A job to be recorded.

    Attributes:
        key: Its ``external_task_id``.
        kind: The kind of task, such as ``"expand"``.
        account: A hash that tells accounts apart; never a key.
        params: The request's fields without images, as JSON.
        n: How many images it makes, from 1.
        source: The image as the user named it.
        image_sha: SHA-256 of the image's bytes (of the URL if it is one).
        dest: Path of the result with "/" and without an extension, relative to the output
            folder if the journal is that folder's own; in a store, its address, likewise without
            an extension; None when no file is wanted.
    """

    key: str = attrs.field(validator=attrs.validators.min_len(1))
    kind: str
    account: str = attrs.field(validator=_no_secret)
    params: Mapping[str, JSON] = attrs.field(converter=_read_only, hash=False, repr=_repr_params)
    n: int = attrs.field(validator=attrs.validators.ge(1))
    source: str = attrs.field(repr=repr_redacted)
    image_sha: str
    dest: str | None = None


@attrs.frozen(kw_only=True)
class SavedFile:
    """One saved image.

    Attributes:
        index: Position among the task's images, from 0.
        name: Path with "/" and the extension, relative as in `NewJob`.
        sha256: Hash of the file's bytes, in hexadecimal.
        size: Bytes.
        kept: False while it has its temporary name, True once it surely has *name*.
    """

    index: int
    name: str
    sha256: str
    size: int
    kept: bool = False


@attrs.frozen(kw_only=True)
class Destination:
    """One path where a job's images are saved: equal images share a job, not a path.

    Attributes:
        source: The image as the user named it.
        dest: Where the result belongs, as in `NewJob`.
        files: What was saved there, by index.
    """

    source: str = attrs.field(repr=repr_redacted)
    dest: str
    files: tuple[SavedFile, ...] = ()


@attrs.frozen(kw_only=True)
class StoredImage:
    """Where one result is on the server. The URLs are signed and not shown in ``repr``.

    Attributes:
        index: Position among the task's images, from 0.
        url: Its URL.
        watermark_url: The URL of the watermarked version, if there is one.
    """

    index: int
    url: str = attrs.field(repr=False)
    watermark_url: str | None = attrs.field(default=None, repr=False)

    @classmethod
    def of(cls, image: ResultImage) -> StoredImage:
        """Return what the journal keeps of *image*."""
        return cls(index=image.index, url=image.url, watermark_url=image.watermark_url)

    def as_result(self, *, task_id: str, kind: str) -> ResultImage:
        """Return the result image of the task *task_id*."""
        return ResultImage(
            index=self.index,
            url=self.url,
            watermark_url=self.watermark_url,
            task_id=task_id,
            kind=kind,
        )


@attrs.frozen(kw_only=True)
class KnownSource:
    """What a source file was when it was last read, and how to see that it is unchanged.

    Attributes:
        path: The file; absolute. For an object in a store, its address.
        variant: How it was read: "" as it is, ``"prepare"`` with conversions.
        size: Bytes.
        mtime_ns: When its content last changed, by its file system.
        ctime_ns: When its content or its inode last changed.
        inode: Its number in its file system, without the highest bit. For an object, a number
            made from its version.
        read_at_ns: When it was read, by the system's clock.
        facts: What the reader found, as JSON.
    """

    path: str
    variant: str = ""
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    read_at_ns: int
    facts: str


@attrs.frozen(kw_only=True)
class JobRecord:
    """One job as the journal holds it. Moments are seconds since 1970.

    Attributes:
        key: Its ``external_task_id``.
        kind: The kind of task.
        account: A hash that tells accounts apart.
        state: Where it stands.
        fence: Grows with every change, so that a change based on an older record is refused.
        boot: The opening of the journal that sent it last.
        run: The run that its price counts in; None when no run has paid for it, as far as is
            known: it was never sent, it was refused, or the server had it already.
        attempt: How often the request was sent.
        sent_at: When the request was sent last.
        post_deadline: When that request can't be on the wire any more.
        params: The request's fields without images; read-only.
        n: How many images it makes.
        source: The image as the user first named it.
        image_sha: SHA-256 of the image's bytes (of the URL if it is one).
        task_id: The server's id.
        images: Where the results are on the server.
        images_seen_at: When those addresses came.
        message: The server's words about a failure.
        units: What the server says it charged, in its own units.
        status: HTTP status of the answer that decided.
        code: The server's error code.
        request_id: The id to quote to the provider's support.
        note: Our own words, such as how the image was converted.
        created_at: When it was planned.
        updated_at: When it last changed.
    """

    key: str
    kind: str
    account: str
    state: JobState
    fence: int = 0
    boot: str | None = None
    run: str | None = None
    attempt: int = 0
    sent_at: float | None = None
    post_deadline: float | None = None
    params: Mapping[str, JSON] = attrs.field(hash=False, repr=_repr_params)
    n: int
    source: str = attrs.field(repr=repr_redacted)
    image_sha: str
    task_id: str | None = None
    images: tuple[StoredImage, ...] = ()
    images_seen_at: float | None = None
    message: str = ""
    units: str | None = None
    status: int | None = None
    code: str | None = None
    request_id: str | None = None
    note: str = ""
    created_at: float
    updated_at: float


@attrs.frozen
class SavedJob:
    """A job that is done.

    Attributes:
        record: Its record.
        destinations: Where its images belong, in the order in which they were planned.
    """

    record: JobRecord
    destinations: tuple[Destination, ...]


class Changes(TypedDict, total=False):
    """What may change apart from the state; see `JobRecord` for the meanings."""

    account: str
    run: None
    sent_at: float | None
    post_deadline: float | None
    task_id: str | None
    images: tuple[StoredImage, ...]
    images_seen_at: float | None
    message: str
    units: str | None
    status: int | None
    code: str | None
    request_id: str | None
    note: str


@attrs.frozen
class JournalEvent:
    """One move of one job; kept for a year.

    Attributes:
        key: The job.
        at: When, in seconds since 1970.
        old: The state left; None for the first.
        new: The state entered.
        why: The reason, in a few words.
    """

    key: str
    at: float
    old: str | None
    new: str
    why: str


def is_billed(record: JobRecord) -> bool:
    """Return whether the server has billed a job.

    A task that failed is not billed, as a rule; it is when the server says that it charged units.
    """
    return record.state in BILLED or Decimal(record.units or 0) > 0


@attrs.frozen(kw_only=True)
class SourceOutcome:
    """How a source ended in the last run that had it, even if it never became a job.

    Attributes:
        source: The image as the user named it.
        outcome: A word of `comet_async.OutcomeStatus`.
        key: Its job, or None.
        files: What was saved, relative as in `NewJob`.
        reason: Why it is not done.
        hint: What to do about it.
        notes: What was done to the image before sending, one sentence each.
        copied: True when it already had the wanted shape and was copied.
        billed: True when that run had it billed.
        at: When it first ended so, in seconds since 1970.
    """

    source: str = attrs.field(repr=repr_redacted)
    outcome: str
    key: str | None = None
    files: tuple[str, ...] = ()
    reason: str = attrs.field(default="", converter=redact)
    hint: str = attrs.field(default="", converter=redact)
    notes: tuple[str, ...] = ()
    copied: bool = False
    billed: bool = False
    at: float


@attrs.frozen(kw_only=True)
class Limits:
    """Limits that are checked in the same transaction that starts a paid request.

    Attributes:
        in_flight: Most images in flight at a time, over all runs. A job with more images
            than that passes alone.
        jobs: Most jobs of this run.
        images: Most images of this run.

    None means: no limit.
    """

    in_flight: int | None = None
    jobs: int | None = None
    images: int | None = None

    def refusal(self, n: int, *, jobs: int, images: int, in_flight: int) -> Refusal | None:
        """Return why *n* more images must not be sent, or None if they may.

        *jobs* and *images* are those of the run so far, *in_flight* those of all runs.
        """
        # Money first: those limits hold to the end of the run, the other one passes.
        if self.jobs is not None and jobs + 1 > self.jobs:
            return Refusal.JOBS
        if self.images is not None and images + n > self.images:
            return Refusal.IMAGES
        if self.in_flight is None or in_flight + n <= self.in_flight:
            return None
        return Refusal.IN_FLIGHT if in_flight or not self.in_flight else None


class Refusal(enum.StrEnum):
    """Which limit kept a job from being sent."""

    IN_FLIGHT = "in_flight"
    JOBS = "jobs"
    IMAGES = "images"


@runtime_checkable
class FindsNewest(Protocol):
    """What a journal may offer in addition: to find one job without reading all others."""

    async def newest(
        self, states: Collection[JobState], *, account: str, kind: str
    ) -> JobRecord | None:
        """Return the job planned last that is in one of *states* and has a task, if any."""
        ...


class Journal(Protocol):
    """The memory of paid jobs.

    Whatever an awaited call wrote is durable when the call returns. A caller that is
    cancelled leaves its write running to the end. Every method raises `JournalError` when
    the journal can't be read or written or is closed. The time *now* is in seconds since 1970.
    """

    @property
    def boot(self) -> str:
        """A random name of this opening of the journal."""
        ...

    async def plan(self, jobs: Sequence[NewJob], *, now: float) -> list[JobRecord]:
        """Record *jobs*, or find those that are known (T1); all of them or none.

        A known job keeps its record, its account included; a new destination is added to it.
        The caller compares the record's account with its own before it sends anything.

        Raises:
            IdempotencyConflictError: A key is known for another request.
        """
        ...

    async def get(self, key: str) -> JobRecord | None:
        """Return the job of this key; None if there is none."""
        ...

    async def find(
        self, states: Collection[JobState] | None = None, *, after: str = "", limit: int = 500
    ) -> list[JobRecord]:
        """Return a page of jobs in the order in which they were planned.

        By default jobs in all *states*. *after* is the last key of the page before; the journal
        must have it.
        """
        ...

    async def by_task(self, task_id: str) -> JobRecord | None:
        """Return the job that the server knows by *task_id*; None if there is none."""
        ...

    async def move(
        self,
        record: JobRecord,
        new: JobState,
        *,
        now: float,
        why: str = "",
        place: Destination | None = None,
        **changes: Unpack[Changes],
    ) -> JobRecord:
        """Move a job to another state and return it as it is now.

        Args:
            record: The job as last seen.
            new: The state to enter; not ``sending``, which `send` enters.
            now: Seconds since 1970.
            why: A few words for the list of events.
            place: Files to record at the same time, as `save_file` does.
            **changes: Details to write with it. Messages and notes are redacted.

        Raises:
            StaleRecordError: *record* is not how the job stands; nothing was written.
            DownloadError: Another job's file has one of the names; nothing was written.
            JournalError: There is no such move or destination.
        """
        ...

    async def send(
        self, record: JobRecord, *, now: float, post_deadline: float, limits: Limits, run: str
    ) -> JobRecord | Refusal:
        """Enter ``sending`` (T2) if the limits let it; then the request may leave.

        Args:
            record: The planned job as last seen.
            now: Seconds since 1970.
            post_deadline: Since when it can't be on the wire any more, in seconds since 1970.
            limits: What must not be exceeded, checked in the same transaction.
            run: The run that the job counts in, until it is proven unpaid (T4, T5, T8).

        Returns:
            The job as it is now, or the limit that is reached.

        Raises:
            StaleRecordError: *record* is not how the job stands; nothing was written.
            JournalError: The job is not planned.
        """
        ...

    async def note(self, record: JobRecord, *, now: float, **changes: Unpack[Changes]) -> JobRecord:
        """Write details of a job that stays in its state; raises what `move` raises."""
        ...

    async def destinations(self, key: str) -> tuple[Destination, ...]:
        """Return where the job's images belong, in the order in which they were planned."""
        ...

    async def save_file(self, key: str, dest: str, file: SavedFile) -> None:
        """Record a file at a destination; it replaces what was there.

        From now on *key* owns the file's name, whichever job did before.

        Raises:
            JournalError: The job has no such destination.
        """
        ...

    async def owner_of(self, name: str) -> str | None:
        """Return the key of the job that saved a file as *name*; None if none did."""
        ...

    async def saved(self, keys: Collection[str]) -> dict[str, SavedJob]:
        """Return those of the jobs *keys* that are done, with their destinations, by key."""
        ...

    async def known_sources(
        self, paths: Collection[str], *, variant: str = ""
    ) -> dict[str, KnownSource]:
        """Return what is known of the files *paths*, by path."""
        ...

    async def remember_sources(self, sources: Sequence[KnownSource]) -> None:
        """Keep what was found in source files; it replaces what was known of them.

        It saves work and protects nothing: losing it costs reading the files again.
        """
        ...

    async def in_flight(self) -> int:
        """Return how many images are in flight, those of crashed runs included."""
        ...

    async def counts(self) -> dict[JobState, int]:
        """Return how many jobs are in each state that has any."""
        ...

    async def events(self, key: str | None = None) -> list[JournalEvent]:
        """Return what happened to a job (or to all), oldest first; old events may be gone."""
        ...

    async def save_outcomes(self, outcomes: Sequence[SourceOutcome]) -> None:
        """Record how sources ended; each replaces what was known of its source.

        One that differs in nothing but the time changes nothing.
        """
        ...

    async def outcomes(self, *, after: str = "", limit: int = 500) -> list[SourceOutcome]:
        """Return a page of the last outcomes of sources, in the order of their names.

        *after* is the last source of the page before; it need not be there.
        """
        ...

    async def read_meta(self, name: str) -> JSON:
        """Return what was written under *name*, or None."""
        ...

    async def write_meta(self, name: str, value: JSON) -> None:
        """Keep a fact about the account or the gateway. Never a key."""
        ...

    async def trust(self) -> None:
        """Declare that nothing is missing any more; for journals that notice when they are old.

        Called after a run with ``verify_remote`` that went through all its images.
        """
        ...

    async def aclose(self) -> None:
        """Finish all writes and close. May be called again."""
        ...
