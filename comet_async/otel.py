"""Traces and metrics with OpenTelemetry; needs the extra ``otel``.

One span for each paid job, with its request, its polls and its download as children, and a few
metrics. The provider, the exporter and the sampling are the application's, as usual.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs

from comet_async.errors import MissingExtraError, WaitTimeoutError
from comet_async.events import (
    AnswerLost,
    Changed,
    Duplicate,
    Event,
    Failed,
    JobEvent,
    NotAccepted,
    Notified,
    Polled,
    Recovered,
    Resubmitted,
    Retried,
    Saved,
    SlotAwaited,
    Submitted,
)

try:
    from opentelemetry import metrics, trace
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider
except ModuleNotFoundError as _error:
    raise MissingExtraError("OpenTelemetry is not installed", extra="otel") from _error

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span

_NAME = "comet_async"
_REMEMBERED = 10_000
"""Jobs whose span is remembered for later events, such as a download after the end."""

_TIMED_OUT = "timed out"


@attrs.define(eq=False)
class _Job:
    """A job's span, and what is counted for it; an ended span takes nothing more."""

    span: Span
    context: Context
    kind: str
    n: int = 0
    in_flight: bool = False
    outcome: str | None = None

    @property
    def ended(self) -> bool:
        return self.outcome is not None

    def set_attribute(self, name: str, value: str | int) -> None:
        if not self.ended:
            self.span.set_attribute(name, value)

    def set_error(self, message: str) -> None:
        if not self.ended:
            self.span.set_status(trace.Status(trace.StatusCode.ERROR, message))

    def add_event(self, name: str, attributes: Mapping[str, str | float] | None = None) -> None:
        if not self.ended:
            self.span.add_event(name, attributes)


class OpenTelemetry:
    """A hook that turns events into spans and metrics.

    Example:
        >>> comet = CometSession(on_event=OpenTelemetry())  # doctest: +SKIP

    Spans: ``comet_async.job`` for each job, a child of the span that is current where the job is
    submitted. Its children are ``comet_async.submit`` (the paid request), ``comet_async.poll`` and
    ``comet_async.save``. Attributes: ``comet_async.external_task_id``, ``comet_async.task_id``,
    ``comet_async.kind``, ``comet_async.images``, ``comet_async.outcome``, ``error.type``.

    Metrics: ``comet_async.jobs`` by outcome, ``comet_async.images.billed``,
    ``comet_async.images.in_flight``, ``comet_async.detection.delay`` (seconds between a task's end
    and its discovery), ``comet_async.polls``, ``comet_async.retries`` and
    ``comet_async.answers.lost``.

    Outcomes: ``succeeded`` (``saved`` if only the download was seen), ``failed``, ``not sent`` and
    ``timed out``. The task of a job that timed out continues: if a later wait sees its end, the job
    is counted with that outcome, too.

    A span ends, and an image is no longer in flight, when this process sees the end of the job. A
    call that was cancelled, and a task that is only submitted here and waited for elsewhere, stay
    open until a wait, or the same request again, sees it.

    Args:
        tracer_provider: By default the global one.
        meter_provider: By default the global one.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        self._tracer = trace.get_tracer(_NAME, tracer_provider=tracer_provider)
        meter = metrics.get_meter(_NAME, meter_provider=meter_provider)
        self._ended = meter.create_counter("comet_async.jobs", "{job}", "Jobs that ended")
        self._billed = meter.create_counter(
            "comet_async.images.billed", "{image}", "Images that the server accepted"
        )
        self._in_flight = meter.create_up_down_counter(
            "comet_async.images.in_flight", "{image}", "Images between acceptance and end"
        )
        self._delay = meter.create_histogram(
            "comet_async.detection.delay", "s", "Time between a task's end and its discovery"
        )
        self._polls = meter.create_counter("comet_async.polls", "{request}", "Polls of one task")
        self._retries = meter.create_counter("comet_async.retries", "{request}", "Failed polls")
        self._lost = meter.create_counter(
            "comet_async.answers.lost", "{request}", "Paid requests whose reply was lost"
        )
        self._jobs: OrderedDict[str, _Job] = OrderedDict()  # by key, and by task id
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        """Record *event*."""
        with self._lock:
            if isinstance(event, JobEvent):
                self._job_event(event)
            elif isinstance(event, Polled | Retried | Changed | Notified):
                self._poll_event(event)

    # ------------------------------------------------------------------ jobs

    def _job_event(self, event: JobEvent) -> None:
        job = self._job(event)
        if event.task_id is not None:
            job.set_attribute("comet_async.task_id", event.task_id)
            self._remember(event.task_id, job)
        match event:
            case Submitted():
                self._accepted(job, event)
                self._child(job, "comet_async.submit", event.seconds)
            case Saved():
                self._child(job, "comet_async.save", event.seconds)
                self._end(job, "saved")
            case Failed():
                job.set_attribute("error.type", event.error)
                job.set_error(event.message)
                timed_out = event.error == WaitTimeoutError.__name__
                failed = _TIMED_OUT if timed_out else "failed"
                # Where it is not known whether it was sent, it may have been, and be billed.
                self._end(job, "not sent" if event.sent is False else failed)
            case AnswerLost():
                self._lost.add(1, {"comet_async.kind": event.kind})
                job.add_event("answer lost", {"error.type": event.error})
            case NotAccepted():
                job.add_event("not accepted", {"error.type": event.error})
            case SlotAwaited():
                job.add_event("waiting for a slot", {"seconds": event.seconds})
            case Recovered():
                self._accepted(job, event)
                job.add_event("recovered")
            case Duplicate() | Resubmitted():
                job.add_event(type(event).__name__.lower())
            case _:
                pass

    def _accepted(self, job: _Job, event: Submitted | Recovered) -> None:
        job.n, job.in_flight = event.n, True
        job.set_attribute("comet_async.images", event.n)
        kind = {"comet_async.kind": event.kind}
        self._billed.add(event.n, kind)
        self._in_flight.add(event.n, kind)

    def _job(self, event: JobEvent) -> _Job:
        job = self._jobs.get(event.key)
        # A job that ended without a task may be sent later: that is a new span.
        if job is not None and not (job.ended and isinstance(event, Submitted)):
            return job
        seconds = event.seconds if isinstance(event, Submitted | SlotAwaited) else 0.0
        span = self._tracer.start_span(
            "comet_async.job",
            kind=trace.SpanKind.CLIENT,
            start_time=_nanoseconds(-seconds),
            attributes={
                "comet_async.external_task_id": event.key,
                "comet_async.kind": event.kind,
            },
        )
        job = _Job(span=span, context=trace.set_span_in_context(span), kind=event.kind)
        self._remember(event.key, job)
        return job

    def _remember(self, name: str, job: _Job) -> None:
        self._jobs[name] = job
        self._jobs.move_to_end(name)
        while len(self._jobs) > 2 * _REMEMBERED:
            self._jobs.popitem(last=False)

    def _end(self, job: _Job, outcome: str) -> None:
        self._landed(job)
        if job.outcome not in {None, _TIMED_OUT} or job.outcome == outcome:
            return
        if not job.ended:  # a span that is not sampled counts, too
            job.span.set_attribute("comet_async.outcome", outcome)
            job.span.end()
        job.outcome = outcome
        self._ended.add(1, {"comet_async.outcome": outcome})

    def _landed(self, job: _Job) -> None:
        if job.in_flight:
            job.in_flight = False
            self._in_flight.add(-job.n, {"comet_async.kind": job.kind})

    # ------------------------------------------------------------------ polls

    def _poll_event(self, event: Polled | Retried | Changed | Notified) -> None:
        job = self._jobs.get(event.task_id)
        match event:
            case Polled():
                self._polls.add(1, {"comet_async.kind": event.kind})
                if job is not None and not job.ended:
                    self._child(job, "comet_async.poll", event.seconds)
            case Retried():
                self._retries.add(1, {"comet_async.kind": event.kind, "error.type": event.error})
            case Notified():
                if job is not None:
                    job.add_event("notified")
            case Changed():
                self._changed(job, event)

    def _changed(self, job: _Job | None, event: Changed) -> None:
        if event.delay is not None:
            self._delay.record(event.delay, {"comet_async.kind": event.task.kind})
        if job is None:
            return
        job.add_event(str(event.task.status))
        if event.task.done:
            self._landed(job)
            if event.task.succeeded:  # a failure is reported by the job itself
                self._end(job, "succeeded")

    def _child(self, job: _Job, name: str, seconds: float) -> None:
        """Add a span that has just ended."""
        start = _nanoseconds(-seconds)
        self._tracer.start_span(name, context=job.context, start_time=start).end()


def _nanoseconds(offset: float) -> int:
    return time.time_ns() + round(offset * 1e9)
