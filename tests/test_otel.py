"""OpenTelemetry: events become spans and metrics, kept in memory by the SDK's own exporters."""

from __future__ import annotations

from pathlib import Path

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler

from comet_async.events import (
    AnswerLost,
    Changed,
    Failed,
    Notified,
    Polled,
    Recovered,
    Retried,
    Saved,
    SlotAwaited,
    Submitted,
)
from comet_async.models import Task, TaskStatus
from comet_async.otel import OpenTelemetry

JOB = {"key": "ce1-a", "kind": "expand"}
KNOWN = {**JOB, "task_id": "878"}


class Telemetry:
    """A hook with exporters in memory."""

    def __init__(self, sampler: Sampler = ALWAYS_ON) -> None:
        self.exporter = InMemorySpanExporter()
        tracers = TracerProvider(sampler=sampler)
        tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = tracers.get_tracer("the application")
        self.reader = InMemoryMetricReader()
        meters = MeterProvider(metric_readers=[self.reader])
        self.hook = OpenTelemetry(tracer_provider=tracers, meter_provider=meters)

    def span(self, name: str) -> ReadableSpan:
        """Return the one span of this name."""
        (span,) = [span for span in self.exporter.get_finished_spans() if span.name == name]
        return span

    def series(self) -> dict[tuple[str, str], float]:
        """Return the points of each metric, by its name and the value of its attribute."""
        data = self.reader.get_metrics_data()
        return {
            (metric.name, "/".join(map(str, (point.attributes or {}).values()))): getattr(
                point, "value", getattr(point, "sum", 0)
            )
            for scope in data.resource_metrics[0].scope_metrics
            for metric in scope.metrics
            for point in metric.data.data_points
        }

    def metrics(self) -> dict[str, float]:
        """Return the sum of each metric's points."""
        found: dict[str, float] = {}
        for (name, _), value in self.series().items():
            found[name] = found.get(name, 0) + value
        return found


@pytest.fixture
def telemetry() -> Telemetry:
    """Return a fresh hook."""
    return Telemetry()


def task(status: TaskStatus) -> Task:
    """Return a task in a status."""
    return Task(id="878", status=status, kind="expand")


def test_a_job_is_one_span_with_children(telemetry: Telemetry) -> None:
    """Request, polls and download are children; the caller's span is the parent."""
    with telemetry.tracer.start_as_current_span("request of a user"):
        telemetry.hook(Submitted(**KNOWN, n=2, seconds=0.5))
        telemetry.hook(
            Polled(task_id="878", kind="expand", status="processing", age=5, seconds=0.1)
        )
        telemetry.hook(Notified(task_id="878"))
        done = Changed(task_id="878", task=task(TaskStatus.SUCCEED), previous=None, delay=0.4)
        telemetry.hook(done)
        telemetry.hook(Saved(**KNOWN, files=(Path("a.png"),), seconds=1.0))
    job, user = telemetry.span("comet_async.job"), telemetry.span("request of a user")
    assert job.parent is not None
    assert job.parent.span_id == user.context.span_id
    assert job.attributes is not None
    assert job.attributes["comet_async.external_task_id"] == "ce1-a"
    assert job.attributes["comet_async.task_id"] == "878"
    assert job.attributes["comet_async.outcome"] == "succeeded"
    for name in ("comet_async.submit", "comet_async.poll", "comet_async.save"):
        child = telemetry.span(name)
        assert child.parent is not None
        assert child.parent.span_id == job.context.span_id
    submit = telemetry.span("comet_async.submit")
    assert submit.start_time is not None
    assert submit.end_time is not None
    assert submit.end_time - submit.start_time == pytest.approx(0.5e9, abs=0.2e9)


def test_metrics_add_up(telemetry: Telemetry) -> None:
    """What was billed stays, what is in flight goes back to zero."""
    telemetry.hook(Submitted(**KNOWN, n=3, seconds=0.5))
    assert telemetry.metrics()["comet_async.images.in_flight"] == 3
    telemetry.hook(Retried(task_id="878", kind="expand", error="ServerError", failures=1, wait=1))
    telemetry.hook(Polled(task_id="878", kind="expand", status="succeed", age=5, seconds=0.1))
    done = Changed(task_id="878", task=task(TaskStatus.SUCCEED), previous=None, delay=0.4)
    telemetry.hook(done)
    telemetry.hook(Saved(**KNOWN, files=(), seconds=1.0))
    assert telemetry.metrics() == {
        "comet_async.images.billed": 3,
        "comet_async.images.in_flight": 0,
        "comet_async.jobs": 1,
        "comet_async.polls": 1,
        "comet_async.retries": 1,
        "comet_async.detection.delay": pytest.approx(0.4),
    }


def test_what_ends_is_subtracted_where_it_was_added(telemetry: Telemetry) -> None:
    """In flight is a sum for each kind: an end without the kind would leave it as it is."""
    telemetry.hook(Submitted(**KNOWN, n=2, seconds=0.5))
    telemetry.hook(Changed(task_id="878", task=task(TaskStatus.SUCCEED), previous=None, delay=0.4))
    series = telemetry.series()
    assert series["comet_async.images.in_flight", "expand"] == 0
    assert series["comet_async.detection.delay", "expand"] == pytest.approx(0.4)


def test_a_wait_that_timed_out_is_no_failure(telemetry: Telemetry) -> None:
    """The task continues, and a later wait, which the caller's retry is, sees its end."""
    telemetry.hook(Submitted(**KNOWN, n=1, seconds=0.5))
    late = Failed(**KNOWN, error="WaitTimeoutError", message="processing", sent=True)
    telemetry.hook(late)
    telemetry.hook(late)
    assert telemetry.metrics()["comet_async.images.in_flight"] == 0
    telemetry.hook(Changed(task_id="878", task=task(TaskStatus.SUCCEED), previous=None))
    telemetry.hook(Saved(**KNOWN, files=(), seconds=1.0))
    jobs = {what: n for (name, what), n in telemetry.series().items() if name == "comet_async.jobs"}
    assert jobs == {"timed out": 1, "succeeded": 1}
    attributes = telemetry.span("comet_async.job").attributes
    assert attributes is not None
    assert attributes["comet_async.outcome"] == "timed out"


@pytest.mark.parametrize(
    ("error", "outcome"), [("WaitTimeoutError", "timed out"), ("JournalError", "failed")]
)
def test_what_may_have_been_sent_is_not_counted_as_unsent(
    error: str, outcome: str, telemetry: Telemetry
) -> None:
    """Whether it was accepted is not known: it may be billed."""
    telemetry.hook(Failed(**JOB, error=error, message="no answer", sent=None))
    assert telemetry.series()["comet_async.jobs", outcome] == 1


def test_a_failure_is_an_error_of_the_span(telemetry: Telemetry) -> None:
    """Its class is there; the way to it is in the span's events."""
    telemetry.hook(SlotAwaited(**JOB, seconds=5.0, used=1, limit=1, holders=("ce1-b",)))
    telemetry.hook(AnswerLost(**JOB, error="OutcomeUnknownError", message="reset"))
    telemetry.hook(Recovered(**KNOWN, n=2))
    assert telemetry.metrics()["comet_async.images.in_flight"] == 2
    failed = Changed(task_id="878", task=task(TaskStatus.FAILED), previous=None)
    telemetry.hook(failed)
    telemetry.hook(Failed(**KNOWN, error="TaskFailedError", message="no", sent=True))
    job = telemetry.span("comet_async.job")
    assert not job.status.is_ok
    assert job.attributes is not None
    assert job.attributes["error.type"] == "TaskFailedError"
    names = [event.name for event in job.events]
    assert names == ["waiting for a slot", "answer lost", "recovered", "failed"]
    assert telemetry.metrics()["comet_async.answers.lost"] == 1
    assert telemetry.metrics()["comet_async.images.billed"] == 2
    assert telemetry.metrics()["comet_async.images.in_flight"] == 0


def test_metrics_do_not_depend_on_the_sampling() -> None:
    """A job that leaves no span is counted all the same."""
    telemetry = Telemetry(ALWAYS_OFF)
    telemetry.hook(Submitted(**KNOWN, n=1, seconds=0.5))
    telemetry.hook(Failed(**KNOWN, error="TaskFailedError", message="no", sent=True))
    assert telemetry.exporter.get_finished_spans() == ()
    assert telemetry.metrics()["comet_async.jobs"] == 1


def test_nothing_is_added_to_an_ended_span(
    telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    """OpenTelemetry would log a warning for each job that is saved."""
    telemetry.hook(Submitted(**KNOWN, n=1, seconds=0.5))
    done = Changed(task_id="878", task=task(TaskStatus.SUCCEED), previous=None, delay=0.4)
    telemetry.hook(done)
    telemetry.hook(Notified(task_id="878"))
    telemetry.hook(Saved(**KNOWN, files=(), seconds=1.0))
    telemetry.hook(Failed(**KNOWN, error="SaveError", message="no", sent=True))
    assert not caplog.records


def test_a_job_that_is_sent_at_last_is_a_span_of_its_own(telemetry: Telemetry) -> None:
    """As in a worker of a fleet, which tries again what was not accepted."""
    telemetry.hook(Failed(**JOB, error="RateLimitError", message="no", sent=False))
    telemetry.hook(Submitted(**KNOWN, n=1, seconds=0.5))
    done = Changed(task_id="878", task=task(TaskStatus.SUCCEED), previous=None, delay=0.4)
    telemetry.hook(done)
    spans = [s for s in telemetry.exporter.get_finished_spans() if s.name == "comet_async.job"]
    outcomes = [span.attributes["comet_async.outcome"] for span in spans if span.attributes]
    assert outcomes == ["not sent", "succeeded"]
    assert telemetry.metrics()["comet_async.jobs"] == 2


def test_tasks_of_others_cost_no_memory(telemetry: Telemetry) -> None:
    """A waiter may poll tasks that this session never submitted."""
    telemetry.hook(Polled(task_id="other", kind="expand", status="processing", age=5, seconds=0.1))
    assert telemetry.exporter.get_finished_spans() == ()
    assert telemetry.metrics() == {"comet_async.polls": 1}
