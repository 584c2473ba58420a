"""The pages: what they take from the code is current, and their Python blocks run in page order.

A page may set a block up for itself with an invisible block::

    % invisible-code-block: python
    % task = await comet.submit(request)

and says why a block can't run here with ``% skip: next "reason"``.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import re
import runpy
import shutil
import subprocess
import sys
import threading
import unittest
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sybil import Example, Sybil
from sybil.parsers.myst import CodeBlockParser, SkipParser

import comet_async
from comet_async import errors
from comet_async.sandbox import DEFAULT_KEY, Sandbox
from tests.support.s3 import make_bucket

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts),
]

GENERATED = runpy.run_path(str(ROOT / "docs" / "generated.py"))

PHOTO = """
from pathlib import Path

import pytest


@pytest.fixture
def photo():
    return Path(__file__).with_name("dog.jpg")
"""


def evaluate(example: Example) -> None:
    """Run one block in the page's namespace; ``await`` may stand at its top level."""
    source = str(example.parsed)
    if "def test_" in source:
        example.namespace.setdefault("_suite", []).append(source)
        return
    padded = "\n" * (example.line + example.parsed.line_offset) + source
    code = compile(padded, example.path, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    runner: asyncio.Runner = example.namespace["_runner"]
    if code.co_flags & inspect.CO_COROUTINE:
        runner.run(eval(code, example.namespace))  # noqa: S307 - our own pages
    else:
        exec(code, example.namespace)  # noqa: S102 - the same
    example.namespace.pop("__builtins__", None)


def run_as_tests(blocks: list[str]) -> None:
    """Run the blocks of a page that hold tests with pytest, as a reader would."""
    folder = Path.cwd() / "suite"
    folder.mkdir()
    (folder / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")
    (folder / "conftest.py").write_text(PHOTO)
    (folder / "test_page.py").write_text("\n\n".join(blocks))
    shutil.copytree("photos", folder / "photos")
    for photo in Path.cwd().glob("*.*g"):
        shutil.copy(photo, folder)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def console_blocks_run_elsewhere(_example: Example) -> None:
    """Leave commands to the tests of the command line."""


SYBIL = Sybil(parsers=[CodeBlockParser("python", evaluate), SkipParser()], path=str(ROOT))


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Serve a fast sandbox from a thread, and yield its URL."""
    started, stop = threading.Event(), threading.Event()
    url: list[str] = []

    async def serve() -> None:
        async with Sandbox(speed=200, engine="pillow") as sandbox:
            url.append(sandbox.url)
            started.set()
            await asyncio.get_running_loop().run_in_executor(None, stop.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    started.wait(30)
    yield url[0]
    stop.set()
    thread.join()


@pytest.fixture
def folder(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with photos, with the sandbox in the environment."""
    shutil.copytree(ROOT / "examples" / "photos", tmp_path / "photos")
    for name in ("dog.png", "me.png", "coat.png"):
        shutil.copy(ROOT / "examples" / "photos" / "coffee.png", tmp_path / name)
    for name in ("dog.jpg", "me.jpg"):
        shutil.copy(ROOT / "examples" / "photos" / "chelsea.jpg", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMETAPI_KEY", DEFAULT_KEY)
    monkeypatch.setenv("COMETAPI_API_ROOT", server)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def shop(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a bucket with photos."""
    bucket = make_bucket("shop", s3_server, monkeypatch)
    for photo in (ROOT / "examples" / "photos").iterdir():
        bucket.write(f"photos/{photo.name}", photo.read_bytes())


@asynccontextmanager
async def session_of_the_page() -> AsyncIterator[dict[str, Any]]:
    """Yield what pages take as given: a session, a request, and a task."""
    async with comet_async.CometSession() as comet:
        yield {"comet": comet}


@pytest.mark.program
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_blocks_of_a_page(page: Path, folder: Path, request: pytest.FixtureRequest) -> None:
    """Each block runs after those above it, as a reader would run them."""
    if page.name == "stores.md":
        request.getfixturevalue("shop")
    document = SYBIL.parse(page)
    names = {name: getattr(comet_async, name) for name in comet_async.__all__}
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        context = session_of_the_page()
        given = runner.run(context.__aenter__())
        try:
            document.namespace.update(names, **given)
            document.namespace.update(_runner=runner, asyncio=asyncio)
            for example in document.examples():
                with contextlib.suppress(unittest.SkipTest):  # this block alone, with its reason
                    example.evaluate()
        finally:
            runner.run(context.__aexit__(None, None, None))
    if blocks := document.namespace.get("_suite"):
        run_as_tests(blocks)
    assert Path.cwd() == folder


CURRENT = dict(GENERATED["contents"]())


@pytest.mark.parametrize("path", CURRENT, ids=lambda path: path.name)
def test_generated_parts_are_current(path: Path) -> None:
    """`python docs/generated.py` would change nothing."""
    assert path.read_text("utf-8") == CURRENT[path], "run: python docs/generated.py"


def test_every_error_says_what_to_do() -> None:
    """The tree has advice for each class that is raised, and for no other."""
    classes = {name for name in vars(errors) if name.endswith("Error") and name != "CometError"}
    assert classes - set(GENERATED["NEXT"]) == {"TransportError", "ResponseError"}
    assert set(GENERATED["NEXT"]) < classes


# Words of no use to a reader: the field has better ones.
WORDS = {
    "door": "gateway",
    "mend": "fix, or convert",
    "picture": "image",
    "question": "poll, or request",
    "wish": "parameter, or setting",
}
DRAWINGS = "This picture|pages and pictures|one picture"  # what is drawn of the code


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_pages_use_the_words_of_the_field(page: Path) -> None:
    """One thing has one name, and it is the usual one."""
    prose = re.sub(rf"```.*?```|`[^`]*`|{DRAWINGS}", "", page.read_text("utf-8"), flags=re.DOTALL)
    found = {
        w: use for w, use in WORDS.items() if re.search(rf"\b{w}(s|es|ed)?\b", prose, re.IGNORECASE)
    }
    assert found == {}
