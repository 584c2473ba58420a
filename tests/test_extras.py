"""A missing optional dependency is an error, or a line of doctor's, that says what to install."""

from __future__ import annotations

import ast
import importlib
import inspect
import io
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

import comet_async
from comet_async import _assets, stores
from comet_async._images.prepare import convert
from comet_async._images.rules import ImageRules
from comet_async._tools import doctor, preview, report
from comet_async.auth import KlingToken
from comet_async.errors import MissingExtraError, install_command
from comet_async.geometry import Margins
from comet_async.requests import SourceImage
from comet_async.sandbox import Sandbox
from comet_async.sandbox._painting import painter
from comet_async.secret import Secret
from tests.support.images import make_png

PACKAGE = Path(comet_async.__file__).parent
# The tests may run beside an installed package.
PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))[
    "project"
]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]


PHOTO = make_png(40, 40)


def heic() -> io.BytesIO:
    """Return what looks like HEIC for as long as only its header is read."""
    return io.BytesIO(b"\0\0\0\x18ftypheic" + bytes(100))


def import_again(name: str) -> Callable[[], object]:
    """Return a function that imports a module as a program does for the first time."""

    def run() -> None:
        sys.modules.pop(name, None)
        importlib.import_module(name)

    return run


def open_a_store() -> object:
    """Open a store in S3; the module that it needs is remembered otherwise."""
    stores._obstore.cache_clear()
    return stores.open_s3("bucket")


# Where the error is raised, the module that is missing, its extra, and what needs it.
SITES: list[tuple[str, str, str, Callable[[], object]]] = [
    ("auth.py", "jwt", "kling", lambda: KlingToken(Secret("a"), Secret("s" * 32)).header(0)),
    ("stores.py", "obstore", "s3", open_a_store),
    ("otel.py", "opentelemetry", "otel", import_again("comet_async.otel")),
    (
        "_postgres/connection.py",
        "psycopg",
        "postgres",
        import_again("comet_async._postgres.connection"),
    ),
    ("_fleet/queue.py", "pgqueuer", "fleet", import_again("comet_async._fleet.queue")),
    (
        "_images/prepare.py",
        "PIL",
        "images",
        lambda: convert(io.BytesIO(PHOTO), "png", ImageRules(source="x")),
    ),
    (
        "_images/prepare.py",
        "pillow_heif",
        "heif",
        lambda: convert(heic(), "heic", ImageRules(source="x")),
    ),
    (
        "_tools/preview.py",
        "PIL",
        "images",
        lambda: preview.render(SourceImage.from_bytes(b""), Margins(up=0.1)),
    ),
    ("_tools/report/__init__.py", "PIL", "report", report.check_requirements),
    ("_tools/report/__init__.py", "jinja2", "report", report.check_requirements),
    ("_assets/__init__.py", "jinja2", "report", _assets.environment),
    ("sandbox/server.py", "PIL", "sandbox", lambda: Sandbox().__aenter__()),
    ("sandbox/_painting/painter.py", "PIL", "sandbox", lambda: painter.photo_size(b"")),
    (
        "sandbox/_painting/painter.py",
        "patchmatch",
        "sandbox",
        lambda: painter.paint(PHOTO, Margins(up=0.5), engine="patchmatch"),
    ),
]


async def run(use: Callable[[], object]) -> None:
    """Call a function, or a coroutine function."""
    result = use()
    if inspect.isawaitable(result):
        await result


def keep_modules(patch: pytest.MonkeyPatch) -> None:
    """Let the test change which modules are loaded; afterwards all is as before."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "comet_async":
            patch.setitem(sys.modules, name, module)


def hide(missing: str, patch: pytest.MonkeyPatch) -> None:
    """Let a package be missing; a part of it that is loaded already could be imported otherwise."""
    parts = [name for name in sys.modules if name.startswith(f"{missing}.")]
    for name in (missing, *parts):
        patch.setitem(sys.modules, name, None)


@pytest.mark.parametrize(("site", "missing", "extra", "use"), SITES)
async def test_the_error_says_what_to_install(
    site: str,
    missing: str,
    extra: str,
    use: Callable[[], object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each place that needs an optional module names its extra."""
    keep_modules(monkeypatch)
    hide(missing, monkeypatch)
    with pytest.raises(MissingExtraError) as caught:
        await run(use)
    assert caught.value.extra == extra
    assert caught.value.hint == f"pip install 'comet-async[{extra}]'"
    assert caught.traceback[-1].path == PACKAGE / site


def test_no_place_is_left_out() -> None:
    """Whatever raises the error stands in the table above, with an extra that exists."""
    raised = {
        (str(path.relative_to(PACKAGE)), keyword.value.value)
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "MissingExtraError"
        for keyword in node.keywords
        if keyword.arg == "extra" and isinstance(keyword.value, ast.Constant)
    }
    assert raised == {(site, extra) for site, _, extra, _ in SITES}
    assert {extra for _, extra in raised} <= set(EXTRAS)


def test_one_function_writes_the_command() -> None:
    """No other text of the package, docstrings aside, tells anybody to install something."""
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        told = [
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and "'comet-async[" in node.value
            and id(node) not in docs
        ]
        assert len(told) == (path.name == "errors.py"), (path, told)


def test_doctor_knows_every_extra() -> None:
    """All of them are listed, but for the command itself, which is running."""
    assert set(doctor._EXTRAS) == set(EXTRAS) - {"cli"}


@pytest.mark.parametrize("extra", doctor._EXTRAS)
def test_doctor_names_each_extra(extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For each module that is not there, doctor's line has the command."""
    monkeypatch.setitem(sys.modules, doctor._EXTRAS[extra][0], None)
    (check,) = [check for check in doctor._extras() if check.name == f"[{extra}]"]
    assert check.hint == f"{install_command(extra)} if you want it"
    assert extra in EXTRAS
