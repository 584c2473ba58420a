"""Bugs that cost money, planted on purpose: what every check of the protocol must find."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest

from comet_async._http import api
from comet_async._jobs.reconcile import Finding, Known, Reconciler, TaskLookup, Verdict
from comet_async._journal.states import JobState
from comet_async.errors import CometError, OutcomeUnknownError, ServerError
from comet_async.models import Task
from comet_async.requests import kind_named
from tests.reliability.simulation import SimJournal

Plant = Callable[[pytest.MonkeyPatch], None]


def trusts_an_empty_lookup(patch: pytest.MonkeyPatch) -> None:
    """Send again as soon as one lookup finds nothing."""

    async def resolve(self: Reconciler, record: Any, _settle: float) -> Finding:  # noqa: ANN401 - as theirs
        kind = kind_named(record.kind)
        finding = await self.lookup.look(kind, record.key, known=None)
        return finding if finding.task else Finding(verdict=Verdict.ABSENT)

    patch.setattr(Reconciler, "resolve", resolve)


def skips_the_control(patch: pytest.MonkeyPatch) -> None:
    """Believe "not found" without trying the question on a task that exists."""

    async def finds(*_: object) -> bool:
        return True

    patch.setattr(TaskLookup, "_finds", finds)
    known = TaskLookup.look

    async def look(self: TaskLookup, kind: Any, key: str, **more: Any) -> Finding:  # noqa: ANN401 - passed on
        more["known"] = more["known"] or Known(key="ce1-any", task_id="any")
        return await known(self, kind, key, **more)

    patch.setattr(TaskLookup, "look", look)


def skips_the_settle_time(patch: pytest.MonkeyPatch) -> None:
    """Believe "not found" although the request may still arrive."""
    plain = Reconciler.resolve

    async def resolve(self: Reconciler, record: Any, _settle: float) -> Finding:  # noqa: ANN401 - passed on
        return await plain(self, record, 0.0)

    patch.setattr(Reconciler, "resolve", resolve)


def takes_5xx_for_not_sent(patch: pytest.MonkeyPatch) -> None:
    """Send again after an answer of 500 and above."""
    plain = api.decode_created

    def decode(reply: Any, **more: Any) -> Task:  # noqa: ANN401 - as theirs
        error: CometError
        try:
            return plain(reply, **more)
        except OutcomeUnknownError as caught:
            error = caught
        if (error.status or 0) >= 500:
            raise ServerError(error.message, status=error.status)
        raise error

    patch.setattr(api, "decode_created", decode)


def writes_nothing_before_it_sends(patch: pytest.MonkeyPatch) -> None:
    """Forget in a crash that a request was on its way."""

    def forget(_self: SimJournal, record: Any) -> Any:  # noqa: ANN401 - a record
        return attrs.evolve(record, state=JobState.PLANNED, fence=record.fence + 1)

    patch.setattr(SimJournal, "_lost", forget)


MUTANTS: tuple[Plant, ...] = (
    trusts_an_empty_lookup,
    skips_the_control,
    skips_the_settle_time,
    takes_5xx_for_not_sent,
    writes_nothing_before_it_sends,
)
