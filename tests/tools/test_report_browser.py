"""The report in a browser: what people see, and what mouse, touch and keys do to it."""

from __future__ import annotations

import base64
import io
import threading
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from comet_async._tools.report.cards import Box, Card, CardMaker, Fact, Shot, Size, View
from comet_async._tools.report.pages import render
from comet_async.outcomes import OutcomeStatus as Status
from tests.support.browser import SIZES, chromium, violations

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("jinja2")
pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


def shot(colour: str, size: tuple[int, int], index: int = 0) -> Shot:
    """Return an image of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "WEBP")
    text = base64.b64encode(buffer.getvalue()).decode()
    address = f"data:image/webp;base64,{text}"
    return Shot(index=index, address=address, width=size[0], height=size[1], full=size)


RED, BLUE = shot("red", (100, 100)), shot("blue", (200, 100))
VIEW = View(
    canvas=Size(width=200, height=100),
    box=Box(left=25, top=0, width=50, height=100),
    before=RED,
    after=(BLUE,),
)
NOTHING = View(
    canvas=Size(width=300, height=200),
    box=Box(left=0, top=0, width=100, height=100),
    before=None,
    after=(),
)


def card(name: str, status: Status = Status.DONE, view: View = VIEW, **more: object) -> Card:
    """Return a card."""
    facts = (Fact(name="Cost", value="$0.028"), Fact(name="Task id", value=f"T{name}", copy=True))
    return Card(name=name, outcome=status, view=view, facts=facts, **more)  # type: ignore[arg-type]  # fields of a card


TWO = View(
    canvas=VIEW.canvas, box=VIEW.box, before=RED, after=(BLUE, shot("green", (200, 100), index=1))
)
CARDS = [
    card("dog 10.png", prompt="a calm sea", properties=("billed",), seconds=9, when=1e9),
    card("dog 2.png", view=TWO, prompt="snow", properties=("billed",), seconds=30, when=1.1e9),
    card("cat.png", properties=("already there",), summary="300 × 300 → 600 × 300 · left 50%"),
    card("wide.png", view=View(canvas=VIEW.canvas, box=VIEW.box, before=None, after=(BLUE,)),
         properties=("copied",)),
    card("bad.png", Status.INVALID, NOTHING, reason="is a text file", remedy="choose another"),
    card("fail.png", Status.FAILED, View(canvas=VIEW.canvas, box=VIEW.box, before=RED, after=()),
         reason="the task failed", remedy="add --retry-failed"),
    card("no.png", Status.REJECTED, NOTHING, reason="refused", remedy="change the prompt"),
    card("maybe.png", Status.UNCERTAIN, NOTHING, reason="the answer was lost"),
    card("later.png", Status.PENDING, NOTHING, reason="interrupted"),
]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Return the browser of this machine."""
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return where a report with every kind of card is."""
    return write(tmp_path_factory.mktemp("photos"), CARDS)


def write(folder: Path, cards: list[Card]) -> str:
    """Write a report and return its address."""
    totals = [("Images", str(len(cards))), ("Cost", f"about ${Decimal('0.056')}")]
    path = folder / "report.html"
    path.write_text(render(cards, maker=CardMaker(folder=folder), totals=totals))
    return path.as_uri()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """Return the report in a window of a desktop."""
    with browser.new_context(viewport=viewport("desktop")) as context:
        opened = context.new_page()
        opened.goto(address)
        yield opened


def viewport(name: str) -> dict[str, int]:
    """Return a window's size as Playwright takes it."""
    width, height = SIZES[name]
    return {"width": width, "height": height}


def names(page: Page) -> list[str]:
    """Return the names of the cards that are shown, in their order."""
    # Not the text of the headings: cards far from the window are built when there is time.
    shown: list[str] = page.locator(".cards > li:visible").evaluate_all(
        "items => items.map((item) => item.dataset.name)"
    )
    return shown


def texts(page: Page, selector: str) -> list[str]:
    """Return what elements say, with single spaces."""
    return [" ".join(text.split()) for text in page.locator(selector).all_text_contents()]


def split(page: Page, where: str = ".cards li:first-child") -> float:
    """Return how much of the width shows the original, in percent."""
    box = page.locator(f"{where} .compare")
    return float(box.evaluate("each => parseFloat(each.style.getPropertyValue('--split'))"))


def test_nothing_is_loaded_and_nothing_complains(browser: Browser, address: str) -> None:
    """The page is the only thing that is requested, and its policy suits it."""
    page = browser.new_page()
    requests: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(address)
    page.locator(".cards li:last-child").scroll_into_view_if_needed()
    assert [url for url in requests if not url.startswith("data:image/")] == [address]
    assert complaints == []
    page.close()


def test_before_and_after_share_the_canvas(page: Page) -> None:
    """The source lies where it belongs; the new area beside it is hatched."""
    before = page.locator(".cards li:first-child .before img").bounding_box()
    after = page.locator(".cards li:first-child .after").bounding_box()
    assert before is not None
    assert after is not None
    assert before["x"] - after["x"] == pytest.approx(after["width"] / 4, abs=1)
    assert before["width"] == pytest.approx(after["width"] / 2, abs=1)
    assert before["height"] == pytest.approx(after["height"], abs=1)
    hatch = page.locator(".cards li:first-child .before")
    assert "gradient" in hatch.evaluate("each => getComputedStyle(each).backgroundImage")


def test_slider_by_mouse(page: Page) -> None:
    """Dragging follows the mouse, also beyond the edge."""
    box = page.locator(".cards li:first-child .compare").bounding_box()
    assert box is not None
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * 0.5, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.2, middle, steps=3)
    assert split(page) == pytest.approx(20, abs=1)
    page.mouse.move(box["x"] + box["width"] * 1.5, middle + 300)
    page.mouse.up()
    assert split(page) == 100
    page.mouse.move(box["x"], middle)
    assert split(page) == 100


def test_slider_by_keys(page: Page) -> None:
    """Arrow keys move the divider, and a reader is told where it is."""
    slider = page.get_by_role("slider", name="Compare before and after: dog 10.png")
    slider.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    assert slider.input_value() == "55"
    assert split(page) == 55
    assert slider.get_attribute("aria-valuetext") == "55% before"
    page.keyboard.press("Home")
    assert split(page) == 0


def test_slider_by_touch(browser: Browser, address: str) -> None:
    """A sideways move drags, a tap sets, and an upward move scrolls the page."""
    with browser.new_context(viewport=viewport("phone"), has_touch=True) as context:
        page = context.new_page()
        page.goto(address)
        box = page.locator(".cards li:first-child .compare").bounding_box()
        assert box is not None
        touch = context.new_cdp_session(page)

        def finger(kind: str, x: float, y: float) -> None:
            at = {"x": box["x"] + box["width"] * x, "y": box["y"] + box["height"] / 2 + y}
            points = [] if kind == "touchEnd" else [at]
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        finger("touchStart", 0.5, 0)
        for step in range(1, 6):
            finger("touchMove", 0.5 + step * 0.05, 0)
        finger("touchEnd", 0.75, 0)
        assert split(page) == pytest.approx(75, abs=2)
        page.touchscreen.tap(box["x"] + box["width"] * 0.3, box["y"] + 20)
        assert split(page) == pytest.approx(30, abs=2)
        finger("touchStart", 0.6, 0)
        for step in range(1, 9):
            finger("touchMove", 0.6, -step * 20)
        finger("touchEnd", 0.6, -160)
        page.wait_for_function("scrollY > 50")
        assert split(page) == pytest.approx(30, abs=2)


def test_filter_by_outcome_and_property(page: Page) -> None:
    """Outcomes add up, properties narrow, and the number shown is said."""
    chips = texts(page, ".chip[data-outcome]")
    assert chips == ["done 4", "failed 1", "rejected 1", "invalid 1", "uncertain 1", "pending 1"]
    page.get_by_role("button", name="failed 1").click()
    page.get_by_role("button", name="invalid 1").click()
    assert names(page) == ["bad.png", "fail.png"]
    assert page.get_by_role("status").inner_text() == "2 of 9 shown"
    page.get_by_role("button", name="failed 1").click()
    page.get_by_role("button", name="invalid 1").click()
    assert len(names(page)) == 9
    page.get_by_role("button", name="billed 2").click()
    assert names(page) == ["dog 10.png", "dog 2.png"]
    page.get_by_role("button", name="copied 1").click()
    assert names(page) == []
    page.get_by_role("button", name="Show everything").click()
    assert len(names(page)) == 9


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("DOG", ["dog 10.png", "dog 2.png"]),
        ("dog snow", ["dog 2.png"]),
        ("retry-failed", ["fail.png"]),
        ("Tcat.png", ["cat.png"]),
        ("text file", ["bad.png"]),
    ],
)
def test_search(page: Page, words: str, found: list[str]) -> None:
    """Names, prompts, reasons, remedies and ids are searched, all words in any order."""
    page.get_by_role("searchbox").fill(words)
    assert names(page) == found


def test_sort(page: Page) -> None:
    """Names sort as people do; ties go by name."""
    order = page.get_by_label("Sort")
    order.select_option("newest first")
    assert names(page)[:3] == ["dog 2.png", "dog 10.png", "bad.png"]
    order.select_option("slowest first")
    assert names(page)[:2] == ["dog 2.png", "dog 10.png"]
    order.select_option("problems first")
    assert names(page)[:2] == ["bad.png", "fail.png"]
    order.select_option("by name")
    assert names(page)[:3] == ["bad.png", "cat.png", "dog 2.png"]


def test_failures_show_reason_and_remedy(page: Page) -> None:
    """A failed image has its original, its reason and what to do."""
    failed = page.locator("li[data-outcome=failed]")
    failed.locator(".before img").wait_for(state="attached")
    assert failed.locator(".badge").inner_text() == "failed"
    assert failed.locator(".reason").inner_text() == "the task failed"
    assert failed.locator(".remedy").inner_text() == "add --retry-failed"


def test_large_view(page: Page) -> None:
    """It steps through the cards that are shown; Escape returns to the card."""
    page.get_by_role("button", name="done 4").click()
    page.get_by_role("button", name="cat.png", exact=True).click()
    dialog = page.get_by_role("dialog", name="cat.png")
    assert dialog.get_by_text("3 of 4").is_visible()
    assert dialog.get_by_text("$0.028").is_visible()
    dialog.get_by_role("button", name="Next").click()
    assert page.get_by_role("dialog", name="wide.png").is_visible()
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("dialog", name="dog 10.png").is_visible()
    page.keyboard.press("ArrowLeft")
    page.get_by_role("button", name="Previous").click()
    assert page.get_by_role("dialog", name="cat.png").is_visible()
    slider = page.get_by_role("dialog").get_by_role("slider")
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert split(page, "dialog") == 51
    page.keyboard.press("Escape")
    assert page.get_by_role("dialog").count() == 0
    assert page.evaluate("document.activeElement.textContent") == "cat.png"


def test_large_view_closes_by_its_button(page: Page) -> None:
    """For those without an Escape key."""
    page.locator("li:first-child .round").click()
    page.get_by_role("button", name="Close").click()
    assert page.get_by_role("dialog").count() == 0


def test_several_results(page: Page) -> None:
    """Buttons carry the numbers that the files have, from 0."""
    item = page.locator("li[data-name='dog 2.png']")
    assert texts(page, ".cards .variants button") == ["Result 0", "Result 1"]
    item.get_by_role("button", name="Result 1").click()
    assert item.locator(".after:visible").get_attribute("alt") == "dog 2.png, expanded, result 1"
    item.locator("h3 button").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Result 0").click()
    assert dialog.locator(".after:visible").get_attribute("alt") == "dog 2.png, expanded, result 0"


def test_texts_are_shown_as_they_are(browser: Browser, tmp_path: Path) -> None:
    """Markup in a name or a prompt is text."""
    name = """<img src="x" onerror='alert(1)'> a src=b &amp; </noscript>.png"""
    page = browser.new_page()
    page.goto(write(tmp_path, [card(name, prompt=name), card("other", prompt="other")]))
    page.locator(".cards li:first-child img[src]").first.wait_for()
    shown = page.locator(".cards li:first-child")
    assert shown.locator("h3").text_content().strip() == name
    assert shown.locator(".prompt").text_content() == f"“{name}”"
    assert shown.locator("img").count() == 2


def test_ids_can_be_copied(browser: Browser, address: str) -> None:
    """A button copies an id to the clipboard."""
    permissions = ["clipboard-read", "clipboard-write"]
    with browser.new_context(permissions=permissions) as context:
        page = context.new_page()
        page.goto(address)
        page.get_by_role("button", name="cat.png", exact=True).click()
        page.get_by_role("button", name="Copy Task id").click()
        page.get_by_text("copied").last.wait_for()
        assert page.evaluate("navigator.clipboard.readText()") == "Tcat.png"


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_is_wider_than_the_window(browser: Browser, address: str, width: int) -> None:
    """No sideways scrolling, whatever the window."""
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto(address)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.get_by_role("button", name="bad.png", exact=True).click()
    assert page.locator("dialog").evaluate("each => each.scrollWidth <= each.clientWidth")
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_accessibility(browser: Browser, address: str, size: str, scheme: str) -> None:
    """axe-core finds nothing, on the page and in the large view."""
    context = browser.new_context(viewport=viewport(size), color_scheme=scheme)  # type: ignore[arg-type]  # words of a table
    page = context.new_page()
    page.goto(address)
    assert violations(page) == []
    page.get_by_role("button", name="invalid 1").click()
    page.get_by_role("button", name="bad.png", exact=True).click()
    assert violations(page) == []
    context.close()


def side_by_side(page: Page) -> None:
    """Assert that the first card shows before and after beside each other."""
    before = page.locator("li:first-child .before").bounding_box()
    after = page.locator("li:first-child .after").bounding_box()
    assert before is not None
    assert after is not None
    assert before["x"] + before["width"] <= after["x"]
    assert before["height"] == pytest.approx(after["height"], abs=1)
    assert not page.locator(".tools").is_visible()


def test_on_paper(page: Page) -> None:
    """A print shows before and after beside each other."""
    page.emulate_media(media="print")
    side_by_side(page)


def test_without_scripts(browser: Browser, address: str) -> None:
    """Some programs show attachments with scripts off."""
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(address)
        side_by_side(page)


def test_filters_on_several_pages(browser: Browser, tmp_path: Path) -> None:
    """Chips count all pages; links to other pages take filters along, and say what fits there."""
    maker = CardMaker(folder=tmp_path)
    parts = [CARDS[:5], CARDS[5:]]
    counts = [Counter((each.outcome, each.properties) for each in part) for part in parts]
    files = ["report.html", "report-2.html"]
    for number, part in enumerate(parts, start=1):
        text = render(part, maker=maker, counts=counts, names=files, number=number)
        (tmp_path / files[number - 1]).write_text(text)
    page = browser.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    assert texts(page, ".chip[data-outcome]")[:2] == ["done 4", "failed 1"]
    page.get_by_role("button", name="failed 1").click()
    assert names(page) == []
    assert page.get_by_text("Nothing matches on this page").is_visible()
    above = page.get_by_role("navigation", name="Pages", exact=True)
    assert " ".join(above.inner_text().split()) == "1 (0) 2 (1)"
    above.get_by_role("link").last.click()
    page.wait_for_url("**/report-2.html*")
    assert names(page) == ["fail.png"]
    assert page.get_by_role("status").inner_text() == "1 of 4 on this page"
    page.get_by_role("searchbox").fill("risk of nothing")
    assert " ".join(above.inner_text().split()) == "1 2"  # words are looked for on this page only
    page.close()


def test_a_page_can_be_used_while_it_is_read(browser: Browser, tmp_path: Path) -> None:
    """A thousand images are many megabytes: the first ones are there before the last."""
    write(tmp_path, [card(f"{number}.png") for number in range(50)])
    data = (tmp_path / "report.html").read_bytes()
    rest = threading.Event()

    class Slow(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            half = data.index(b'data-name="20.png"')
            self.wfile.write(data[:half])
            rest.wait(60)
            self.wfile.write(data[half:])

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}/", wait_until="commit")
        page.locator(".cards li:first-child img.after").wait_for()
        page.get_by_role("button", name="1.png", exact=True).click()
        assert page.get_by_role("dialog", name="1.png").is_visible()
        page.keyboard.press("Escape")
        page.get_by_role("searchbox").fill("3.png")
        rest.set()
        page.wait_for_function("document.readyState === 'complete'")
        assert names(page) == ["3.png", "13.png", "23.png", "33.png", "43.png"]
        page.close()
        server.shutdown()


def test_a_thousand_images(browser: Browser, tmp_path: Path) -> None:
    """Images are decoded when they come near the window, not when the page opens."""
    page = browser.new_page(viewport=viewport("desktop"))
    page.goto(write(tmp_path, [card(f"{number}.png") for number in range(1000)]))
    assert page.locator(".cards > li").count() == 1000
    page.locator(".cards li:first-child img.after").wait_for()
    # Cards may all be built by now, if the browser had time: their images have no address yet.
    assert page.locator(".cards img[src]").count() < 200
    page.locator(".cards li:last-child").scroll_into_view_if_needed()
    page.locator(".cards li:last-child img.after").wait_for()
    page.get_by_role("searchbox").fill("999")
    assert names(page) == ["999.png"]
    page.close()
