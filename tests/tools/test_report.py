"""The facts and images of a report, without a browser."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from comet_async._journal.memory import MemoryJournal
from comet_async._journal.records import (
    Destination,
    JobRecord,
    Limits,
    NewJob,
    SavedFile,
    SourceOutcome,
    StoredImage,
)
from comet_async._journal.states import JobState
from comet_async._tools.report import pages
from comet_async._tools.report.cards import Box, Card, CardMaker, Shot, Size, View
from comet_async._tools.report.entries import Entry, natural, read_entries
from comet_async._tools.report.pages import render, write_pages
from comet_async._tools.report.thumbnails import make_thumbnail
from comet_async.errors import InputError
from comet_async.outcomes import OutcomeStatus
from tests.support.images import with_odd_exif

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("jinja2")

NOW = 1_790_000_000.0
WIDER: Mapping[str, Any] = {"left_expansion_ratio": 0.5, "right_expansion_ratio": 0.5}


def record(source: str, state: JobState = JobState.DONE, **more: Any) -> JobRecord:
    """Return a job of an image that grew to twice its width."""
    values: dict[str, Any] = {
        "key": "ce1-1", "kind": "expand", "account": "a", "state": state, "params": WIDER,
        "n": 1, "source": source, "image_sha": "0", "created_at": NOW, "updated_at": NOW,
    }  # fmt: skip
    return JobRecord(**values | more)


def entry(source: str, **more: Any) -> Entry:
    """Return a finished source."""
    values: dict[str, Any] = {"outcome": OutcomeStatus.DONE, "record": record(source)}
    return Entry(source=source, **values | more)


# ---------------------------------------------------------------------------- thumbnails


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tiff", "a.gif", "a.bmp"])
def test_formats(tmp_path: Path, name: str) -> None:
    """Whatever Pillow reads is shown as WebP, scaled down."""
    Image.new("RGB", (900, 600), "red").save(tmp_path / name)
    made = make_thumbnail(tmp_path / name, 300)
    assert made is not None
    assert made.address.startswith("data:image/webp;base64,UklGR")
    assert (made.width, made.height, made.size) == (300, 200, (900, 600))


def test_heic(tmp_path: Path) -> None:
    """What phones write is shown, although browsers can't show it."""
    heif = pytest.importorskip("pillow_heif")
    path = tmp_path / "a.heic"
    heif.from_pillow(Image.new("RGB", (640, 480), "red")).save(path)
    made = make_thumbnail(path, 320)
    assert made is not None
    assert (made.width, made.height, made.size) == (320, 240, (640, 480))


def test_rotated_by_exif(tmp_path: Path) -> None:
    """A photo taken upright is shown upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (4000, 3000), "red").save(tmp_path / "a.jpg", exif=exif)
    made = make_thumbnail(tmp_path / "a.jpg", 400)
    assert made is not None
    assert (made.width, made.height, made.size) == (300, 400, (3000, 4000))


def test_exif_that_can_not_be_written_back(tmp_path: Path) -> None:
    """A value that only readers put up with is no reason to show nothing."""
    path = tmp_path / "a.jpg"
    Image.new("RGB", (600, 300), "red").save(path)
    path.write_bytes(with_odd_exif(path.read_bytes()))
    made = make_thumbnail(path, 300)
    assert made is not None
    assert (made.width, made.height, made.size) == (150, 300, (300, 600))


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "I;16"])
def test_any_kind_of_pixels(tmp_path: Path, mode: str) -> None:
    """Colours are those of a screen."""
    Image.new("L", (90, 60)).convert(mode).save(tmp_path / "a.tiff")
    assert make_thumbnail(tmp_path / "a.tiff", 300) is not None


@pytest.mark.parametrize("data", [b"", b"not an image", b"\x89PNG\r\n\x1a\n", b"\0" * 99])
def test_what_is_not_an_image(tmp_path: Path, data: bytes) -> None:
    """A file that can't be decoded has no preview; the page is made all the same."""
    (tmp_path / "a.png").write_bytes(data)
    assert make_thumbnail(tmp_path / "a.png", 300) is None
    assert make_thumbnail(tmp_path / "missing.png", 300) is None


def test_much_detail_takes_not_much_more_room(tmp_path: Path) -> None:
    """A page of a thousand images stays below 50 MB."""
    Image.effect_noise((1400, 700), 90).convert("RGB").save(tmp_path / "a.png")
    made = make_thumbnail(tmp_path / "a.png", 720)
    assert made is not None
    assert len(made.address) < 150_000


# ---------------------------------------------------------------------------- entries


def new_job(key: str, source: str) -> NewJob:
    """Return a job to plan."""
    return NewJob(
        key=key,
        kind="expand",
        account="a",
        params=WIDER,
        n=1,
        source=source,
        image_sha="0",
        dest=Path(source).stem,
    )


async def test_what_a_journal_knows() -> None:
    """Each source of a job has an entry; an equal image is not billed again."""
    journal = MemoryJournal()
    (planned, _) = await journal.plan(
        [new_job("k", "photos/2.png"), new_job("k", "photos/10.png")], now=NOW
    )
    await journal.plan([new_job("l", "photos/1.png")], now=NOW)
    sent = await journal.send(planned, now=NOW, post_deadline=NOW + 9, limits=Limits(), run="r")
    assert isinstance(sent, JobRecord)
    moved = await journal.move(sent, JobState.SUBMITTED, now=NOW + 1, task_id="T")
    image = StoredImage(index=0, url="https://example.org/0.png")
    moved = await journal.move(moved, JobState.SUCCEEDED, now=NOW + 21, units="8", images=(image,))
    saved = Destination(
        source="photos/2.png",
        dest="2",
        files=(SavedFile(index=0, name="2.png", sha256="0", size=1, kept=True),),
    )
    moved = await journal.move(moved, JobState.SAVING, now=NOW + 22, place=saved)
    await journal.move(moved, JobState.DONE, now=NOW + 22)
    first, second, third = await read_entries(journal)
    assert (first.source, first.outcome) == ("photos/1.png", OutcomeStatus.PENDING)
    assert first.reason == "Recorded, but not sent and not paid"
    assert (second.source, second.outcome) == ("photos/2.png", OutcomeStatus.DONE)
    assert (second.cost, second.units, second.seconds) == (Decimal("0.028"), Decimal(8), 21)
    assert second.files == {0: "2.png"}
    assert (third.source, third.cost, third.units) == ("photos/10.png", 0, 0)


async def test_last_outcomes() -> None:
    """Sources without a job are there; what a job came to since then counts more."""
    journal = MemoryJournal()
    await journal.plan([new_job("k", "photos/1.png"), new_job("l", "photos/2.png")], now=NOW)
    await journal.save_outcomes(
        [
            SourceOutcome(source="photos/0.png", outcome="invalid", reason="is GIF", hint="convert",
                          at=NOW),
            SourceOutcome(source="photos/1.png", outcome="rejected", key="k", reason="no credit",
                          at=NOW + 1),
            SourceOutcome(source="photos/2.png", outcome="uncertain", key="l", at=NOW - 1),
            SourceOutcome(source="photos/3.png", outcome="done", copied=True, files=("3.png",),
                          at=NOW),
            SourceOutcome(source="photos/4.png", outcome="done", at=NOW),
        ]
    )  # fmt: skip
    found = await read_entries(journal)
    assert [(each.outcome.value, each.reason) for each in found] == [
        ("invalid", "is GIF"),
        ("rejected", "no credit"),
        ("pending", "Recorded, but not sent and not paid"),
        ("done", ""),
        ("done", ""),
    ]
    assert found[0].hint == "convert"
    assert (found[3].copied, found[3].files, found[3].already_there) == (True, {0: "3.png"}, False)
    assert found[4].already_there


async def test_what_is_under_way_needs_another_run() -> None:
    """The advice is not that of the error which ended the wait."""
    journal = MemoryJournal()
    await journal.plan([new_job("k", "photos/1.png")], now=NOW)
    last = SourceOutcome(
        source="photos/1.png", outcome="pending", key="k", hint="look k up", at=NOW + 1
    )
    await journal.save_outcomes([last])
    (found,) = await read_entries(journal)
    assert found.hint == "run the same command again to resume"


async def test_one_entry_for_a_file_that_was_named_in_two_ways() -> None:
    """The last outcome counts."""
    journal = MemoryJournal()
    for number, source in enumerate(("a.png", "./a.png", f"{Path.cwd()}/a.png")):
        outcome = SourceOutcome(source=source, outcome="done", at=NOW + number)
        await journal.save_outcomes([outcome])
    assert len(await read_entries(journal)) == 1


@pytest.mark.parametrize(
    ("state", "outcome", "reason"),
    [
        (JobState.REJECTED, OutcomeStatus.REJECTED, "refused"),
        (JobState.FAILED, OutcomeStatus.FAILED, "refused"),
        (JobState.UNCERTAIN, OutcomeStatus.UNCERTAIN, "accepted"),
        (JobState.SUBMITTED, OutcomeStatus.PENDING, "Accepted"),
        (JobState.EXPIRED, OutcomeStatus.FAILED, "no longer"),
        (JobState.ABANDONED, OutcomeStatus.FAILED, "by hand"),
    ],
)
def test_reasons(state: JobState, outcome: OutcomeStatus, reason: str) -> None:
    """What is not done has the reason that the command gives."""
    from comet_async._tools.report.entries import _standing  # noqa: PLC0415 - of this test only

    found = _standing(record("a.png", state, message="refused", task_id="T"))
    assert found[0] is outcome
    assert reason in found[1]


def test_natural_order() -> None:
    """Numbers sort as numbers, and capitals with small letters."""
    names = ["b10.png", "B2.png", "a.png", "10.png", "9.png"]
    assert sorted(names, key=natural) == ["9.png", "10.png", "a.png", "B2.png", "b10.png"]


# ---------------------------------------------------------------------------- cards


def test_a_card(tmp_path: Path) -> None:
    """Sizes, margins, time, units, cost and ids are on it, in words."""
    (tmp_path / "out").mkdir()
    Image.new("RGB", (400, 400), "red").save(tmp_path / "dog.png")
    Image.new("RGB", (800, 400), "blue").save(tmp_path / "out" / "dog.png")
    made = CardMaker(folder=tmp_path / "out", root=f"{tmp_path}/").make(
        entry(
            f"{tmp_path}/dog.png",
            record=record("dog.png", units="8", task_id="T1"),
            files={0: "dog.png"},
            seconds=75.2,
            at=NOW,
        )
    )
    assert (made.name, made.properties) == ("dog.png", ("billed",))
    assert made.summary == "400\xa0×\xa0400 → 800\xa0×\xa0400 · left\xa050%, right\xa050%"
    facts = {fact.name: fact.value for fact in made.facts}
    assert facts["Time taken"] == "1 min 15 s"
    assert (facts["Units"], facts["Cost"]) == ("8", "about $0.028")
    assert (facts["Task id"], facts["Key"]) == ("T1", "ce1-1")
    assert made.view.box == Box(left=25, top=0, width=50, height=100)
    assert made.view.before is not None
    assert made.view.before.width == 360  # half of the canvas
    links = {fact.name: fact.address for fact in made.facts if fact.address}
    assert links == {"Original": "../dog.png", "Result": "dog.png"}


def test_a_card_has_no_key_in_its_sentences(tmp_path: Path) -> None:
    """The key is a line of its own, to be copied."""
    made = CardMaker(folder=tmp_path).make(
        entry(
            "dog.png",
            reason="request ce1-1 may have been accepted",
            hint="do not submit it again: look ce1-1 up later",
        )
    )
    assert made.reason == "request may have been accepted"
    assert made.remedy == "do not submit it again: look it up later"


def test_a_relative_source_is_found_from_anywhere(tmp_path: Path) -> None:
    """A report made from another working folder looks beside the output folder, too."""
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (400, 400), "red").save(tmp_path / "photos" / "dog.png")
    made = CardMaker(folder=tmp_path / "out").make(entry("photos/dog.png"))
    assert made.view.before is not None


@pytest.mark.parametrize("source", ["a" * 400, "a/" * 4000, "a\0b"], ids=["name", "path", "zero"])
def test_a_source_that_can_be_no_file(tmp_path: Path, source: str) -> None:
    """What was refused, such as Base64, has a card without an image."""
    invalid = entry(source, outcome=OutcomeStatus.INVALID, record=None)
    assert CardMaker(folder=tmp_path).make(invalid).view.before is None


def test_a_copied_image(tmp_path: Path) -> None:
    """It is shown once: before and after are the same."""
    Image.new("RGB", (800, 400), "blue").save(tmp_path / "wide.png")
    made = CardMaker(folder=tmp_path).make(
        entry(str(tmp_path / "wide.png"), record=None, copied=True, files={0: "wide.png"})
    )
    assert (made.view.before, len(made.view.after)) == (None, 1)
    assert made.properties == ("copied",)


def test_simulated_results_cost_nothing(tmp_path: Path) -> None:
    """The sandbox bills nothing, so no amount and no such filter is shown."""
    maker = CardMaker(folder=tmp_path, simulated=True)
    made = maker.make(entry("https://example.org/dog.png?key=1"))
    assert made.name == "https://example.org/dog.png"
    assert "billed" not in made.properties
    assert re.search(r"\$\d", render([made], maker=maker)) is None


# ---------------------------------------------------------------------------- pages


def test_further_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Very many images are on several pages; those of a longer report before are removed."""
    monkeypatch.setattr(pages, "CARDS", 2)
    maker = CardMaker(folder=tmp_path)
    everything = [entry(f"{number}.png") for number in range(5)]
    assert write_pages(maker, everything) == tmp_path / "report.html"
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["report-2.html", "report-3.html", "report.html"]
    second = (tmp_path / "report-2.html").read_text()
    assert re.findall(r'data-name="(.*?)"', second) == ["2.png", "3.png"]
    assert re.findall(r'<a href="(.*?)".*? aria-current="page"', second) == ["report-2.html"] * 2
    assert "<dd>5</dd>" in second  # totals count all pages
    assert 'data-outcome="done">done <span class="count">5<' in second  # and so do the chips
    write_pages(maker, everything[:1])
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_later_page_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written when one of the names is taken."""
    monkeypatch.setattr(pages, "CARDS", 1)
    (tmp_path / "report-2.html").write_text("mine")
    with pytest.raises(InputError, match="is not a report"):
        write_pages(CardMaker(folder=tmp_path), [entry("1.png"), entry("2.png")])
    assert [path.name for path in tmp_path.iterdir()] == ["report-2.html"]


def test_nothing_on_the_page_can_run(tmp_path: Path) -> None:
    """Names and prompts are text, whatever they look like, and the policy names the script."""
    evil = '<script>alert(1)</script>"'
    shot = Shot(address="a.png", width=3, height=2, full=(3, 2))
    size, box = Size(width=3, height=2), Box(left=0, top=0, width=50, height=100)
    view = View(canvas=size, box=box, before=shot, after=(shot,))
    card = Card(name=evil, outcome=OutcomeStatus.DONE, prompt=evil, reason=evil, view=view)
    page = render([card], maker=CardMaker(folder=tmp_path / evil, simulated=True))
    assert page.count("<script") == 1
    assert "default-src 'none'; img-src data:;" in page.replace("&#39;", "'")
    assert "script-src 'sha256-" in page.replace("&#39;", "'")
    assert "the sandbox painted these images" in page


def test_an_empty_folder(tmp_path: Path) -> None:
    """A journal without jobs has a page without cards."""
    assert "0 shown" in write_pages(CardMaker(folder=tmp_path), []).read_text()
