"""The built documentation: links, offline search, and what a browser shows of each page."""

from __future__ import annotations

import functools
import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote, urlsplit

import pytest

from tests.support.browser import PATIENCE, SIZES, chromium, violations

for _name in ("sphinx", "furo", "myst_parser", "sphinx_copybutton"):
    pytest.importorskip(_name, reason="the group `docs` is not installed")

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.slow

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(
    path.relative_to(DOCS).with_suffix(".html").as_posix()
    for path in DOCS.rglob("*.md")
    if "_build" not in path.parts
)

OF_FIGURES = {"explanation/benchmarks.html"}
"""Pages whose tables are too wide for a phone: what they say stands above them in words."""


class Links(HTMLParser):
    """Collects the anchors of a page and the places that it links to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.targets: set[str] = set()
        self.feed(text)

    def handle_starttag(self, _tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Note the ids, links and images of one tag."""
        given = dict(attributes)
        self.anchors |= {given["id"]} if given.get("id") else set()
        self.targets |= {str(given[name]) for name in ("href", "src") if given.get(name)}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the pages with warnings as errors, and return their folder."""
    folder = tmp_path_factory.mktemp("site")
    trees = tmp_path_factory.mktemp("trees")
    options = ["-n", "-W", "--keep-going", "-q", "-E", "-d", str(trees)]
    command = [sys.executable, "-m", "sphinx", *options, str(DOCS), str(folder)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder


def test_links_lead_somewhere(site: Path) -> None:
    """Every link inside the pages has its file, and its anchor in that file."""
    pages = {path: Links(path.read_text("utf-8")) for path in site.rglob("*.html")}
    broken = []
    for path, page in pages.items():
        for target in page.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc or target == "#":
                continue
            file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            known = pages[file].anchors if file in pages else set()
            if not file.exists() or (anchor and file in pages and anchor not in known):
                broken.append(f"{path.relative_to(site)}: {target}")
    assert broken == []


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    """No script, style or image comes from another site: pages can be read offline."""
    for path in site.rglob("*.html"):
        tags = path.read_text("utf-8").split("<")
        loading = [tag for tag in tags if tag.startswith(("script", 'link rel="style', "img"))]
        assert not [tag for tag in loading if "//" in tag.split(">")[0]], path


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Serve the site on this machine."""
    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A file server that logs nothing."""

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def browser(site: Path) -> Iterator[Browser]:  # noqa: ARG001 - built before Playwright's loop runs
    """Return the browser of this machine."""
    with chromium() as running:
        yield running


@pytest.mark.parametrize(("size", "scheme"), [("phone", "dark"), ("desktop", "light")])
@pytest.mark.parametrize("name", PAGES)
def test_pages_are_readable(
    browser: Browser, address: str, name: str, size: str, scheme: Literal["dark", "light"]
) -> None:
    """No page needs sideways scrolling, and axe-core finds nothing wrong with it."""
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(address + name)
    found = [
        *violations(page),
        *too_wide(page, width, tables=size == "desktop" or name not in OF_FIGURES),
    ]
    context.close()
    assert found == []


def too_wide(page: Page, width: int, *, tables: bool) -> list[str]:
    """Return what makes a page, or one of its tables, scroll sideways."""
    found = []
    if (scrolls := page.evaluate("document.scrollingElement.scrollWidth")) > width:
        found.append(f"the page is {scrolls} px wide")
    script = """() => [...document.querySelectorAll('.table-wrapper')]
        .filter(each => each.scrollWidth > each.clientWidth + 1)
        .map(each => `a table is too wide: ${each.innerText.slice(0, 60)}`)"""
    return found + (page.evaluate(script) if tables else [])


def test_search_works_without_a_network(browser: Browser, site: Path) -> None:
    """A word is found in a page that was opened from the disk."""
    page = browser.new_page()
    page.goto(f"{site.as_uri()}/search.html?q=journal")
    # Results come one after the other.
    page.wait_for_selector("#search-results li a[href*='guides/journal.html']")
    page.close()


def test_commands_can_be_copied(browser: Browser, address: str) -> None:
    """A block of commands has a button, and its prompts and output are left out."""
    page = browser.new_page()
    page.goto(address + "start/first-image.html")
    page.wait_for_selector(".highlight-console button.copybtn")
    page.close()
