"""The last outcome of each source, written to the journal many at a time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Set as AbstractSet
from pathlib import Path

import attrs

from comet_async._journal.records import JobRecord, Journal, SourceOutcome, is_billed
from comet_async.clock import Clock
from comet_async.errors import JournalError
from comet_async.outcomes import Outcome

_BATCH = 200  # outcomes in one write


@attrs.define(eq=False, kw_only=True)
class OutcomeLog:
    """Records the outcomes of one run, for reports.

    Nothing that is paid depends on it: a crash loses the outcomes that are not written yet, and
    a journal that can't be written any more does not stop a run here.

    Attributes:
        journal: The journal.
        clock: The source of time.
        run: The name of the run, by which its jobs are known as billed in it.
        root: What the names of files are relative to; None when no files are wanted.
    """

    journal: Journal
    clock: Clock
    run: str
    root: Path | None
    _waiting: list[tuple[Outcome, float]] = attrs.field(factory=list, init=False)
    _records: dict[str, JobRecord] = attrs.field(factory=dict, init=False)

    async def add(self, outcome: Outcome, record: JobRecord | None = None) -> None:
        """Record *outcome*, at once or with later ones.

        Args:
            outcome: The outcome.
            record: Its job, if it was just read.
        """
        self._waiting.append((outcome, self.clock.time()))
        if record is not None:
            self._records[record.key] = record
        if len(self._waiting) >= _BATCH:
            await self.flush()

    async def flush(self) -> None:
        """Write what is waiting."""
        waiting, self._waiting = self._waiting, []
        records, self._records = self._records, {}
        if waiting:
            with contextlib.suppress(JournalError):
                keys = {key for outcome, _ in waiting if (key := outcome.external_task_id)}
                records |= await self._read(keys - records.keys())
                await self.journal.save_outcomes(
                    [
                        self._entry(outcome, records.get(outcome.external_task_id or ""), at)
                        for outcome, at in waiting
                    ]
                )

    async def _read(self, keys: AbstractSet[str]) -> dict[str, JobRecord]:
        """Return the jobs of these keys, most of them by one query."""
        records = {key: job.record for key, job in (await self.journal.saved(keys)).items()}
        for key in keys - records.keys():
            if (record := await self.journal.get(key)) is not None:
                records[key] = record
        return records

    def _entry(self, outcome: Outcome, record: JobRecord | None, at: float) -> SourceOutcome:
        error = outcome.error
        billed = record is not None and record.run == self.run and is_billed(record)
        return SourceOutcome(
            source=outcome.source,
            outcome=str(outcome.status),
            key=None if record is None else record.key,
            files=(
                *(self._relative(path) for path in outcome.files),
                *outcome.urls,
            ),
            reason="" if error is None else error.message,
            hint="" if error is None else error.hint or "",
            notes=outcome.notes,
            copied=outcome.done and outcome.external_task_id is None,
            billed=billed,
            at=at,
        )

    def _relative(self, path: Path) -> str:
        """Return *path* relative to the root."""
        root, text = os.path.join(self.root or os.curdir, ""), str(path)  # noqa: PTH118 - text
        if text.startswith(root) and ".." not in text:  # of very many files
            return text[len(root) :]
        return os.path.relpath(text, root)
