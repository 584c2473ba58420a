"""Draw the figures of the documentation: ``python docs/figures.py``, or ``nox -s figures``.

Drawings of margins come from the command's own preview, terminal screens from the command itself,
run against the sandbox in a terminal of a fixed size.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import itertools
import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import attrs
import pyte
from PIL import Image
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import MONOKAI
from rich.text import Text

from comet_async.sandbox import DEFAULT_KEY, Fault, Options, Sandbox

HERE = Path(__file__).parent
PHOTOS = HERE.parent / "examples" / "photos"
GEOMETRY = {
    "aspect": ["--to", "16:9"],
    "uniform": ["--up", "0.2", "--down", "0.2", "--left", "0.2", "--right", "0.2"],
    "bottom": ["--to", "1:1", "--anchor", "bottom"],
}
COLUMNS, LINES = 90, 40
PORT = 8765


def draw_geometry() -> None:
    """Draw one image with each kind of margin."""
    target = HERE / "_static" / "geometry"
    target.mkdir(exist_ok=True)
    for name, options in GEOMETRY.items():
        with tempfile.TemporaryDirectory() as folder:
            command = ["comet-async", "preview", str(PHOTOS / "chelsea.jpg"), *options]
            subprocess.run([*command, "--out", folder], check=True, capture_output=True)  # noqa: S603 - our own program
            (drawing,) = Path(folder).glob("*.png")
            with Image.open(drawing) as image:
                image.thumbnail((600, 600))
                image.convert("RGB").save(target / f"{name}.jpg", quality=85)


# What differs from run to run, and what the figures show instead.
FIXED = (
    (rb"clock: \d+ s", b"clock: 0 s"),
    # As wide as before: a bar is drawn over the one before it.
    (rb"(?<!clock: )\b\d\d s\b", b"24 s"),
    (rb"(?<!clock: )\b\d s\b", b"8 s"),
    (rb"\d[\d.]* GB free", b"81.4 GB free"),
    (rb"Linux \S+", b"Linux 6.12"),
    (rb"\d{4}-\d\d-\d\d \d\d:\d\dZ", b"2026-01-31 17:20Z"),
)


@attrs.define
class Terminal:
    """A terminal in which commands are run one after the other.

    Attributes:
        folder: Where they run.
        environment: Their environment variables.
    """

    folder: Path
    environment: dict[str, str]
    _written: list[bytes] = attrs.field(factory=list, init=False)

    def run(self, command: str, *, until: str = "", keys: bytes = b"") -> None:
        """Run *command*; send *keys* once *until* has been written."""
        self._written.append(b"\x1b[1m$ %s\x1b[0m\r\n" % command.encode())
        begin = len(self._written)
        child, descriptor = pty.fork()
        if child == 0:
            os.chdir(self.folder)
            environment = self.environment | {"COLUMNS": str(COLUMNS), "LINES": str(LINES)}
            os.execvpe("/bin/sh", ["sh", "-c", f"exec {command}"], environment)  # noqa: S606 - our own
        with contextlib.suppress(OSError):  # the end of a terminal is an error
            while data := os.read(descriptor, 65536):
                self._written.append(data)
                if keys and until.encode() in b"".join(self._written[begin:]):
                    os.write(descriptor, keys)
                    keys = b""
        os.close(descriptor)
        os.waitpid(child, 0)

    def screen(self, *, half_done: bool = False) -> pyte.Screen:
        """Return the screen at the end, or as it was while a run was half done."""
        screen = pyte.Screen(COLUMNS, LINES)
        stream = pyte.ByteStream(screen)
        shown = None
        for data in self._written:
            stream.feed(self._stable(data))
            if half_done and _is_half_done(screen.display):
                shown = copy.deepcopy(screen.buffer)
        if half_done:
            if shown is None:
                raise RuntimeError("the run was never seen half done: draw it again")
            screen.buffer = shown
        return screen

    def _stable(self, data: bytes) -> bytes:
        data = data.replace(str(self.folder).encode(), b"~/pictures")
        for pattern, text in FIXED:
            data = re.sub(pattern, text, data)
        return data


def _is_half_done(lines: Sequence[str]) -> bool:
    """Return True if the bar counts as many of six images as there are lines above it."""
    done = sum(line.startswith("done") for line in lines)
    return done in {3, 4, 5} and any(f"{done} of 6" in line and "waiting" in line for line in lines)


async def record_terminal() -> None:
    """Run commands against a sandbox, and draw what the screen shows."""
    expand = "comet-async expand photos --out wide --to 2:1"
    # The first two run slowly enough to be seen, and to be stopped, half done.
    async with working(speed=8) as (_, terminal):
        await asyncio.to_thread(terminal.run, expand)
        save("progress", terminal.screen(half_done=True))
        save("expand", terminal.screen())
    async with working(speed=8) as (_, terminal):
        await asyncio.to_thread(terminal.run, expand, until="2 of 6", keys=b"\x03")
        await asyncio.to_thread(terminal.run, expand)
        save("resume", terminal.screen())
    async with working() as (_, terminal):
        photos = terminal.folder / "photos"
        shutil.copy(photos / "rocket.jpg", photos / "rocket copy.jpg")
        with Image.open(photos / "china.jpg") as image:
            image.save(photos / "scan.tiff")
        await asyncio.to_thread(terminal.run, f"{expand} --dry-run")
        save("plan", terminal.screen())
    async with working() as (_, terminal):
        await asyncio.to_thread(terminal.run, "comet-async doctor")
        save("doctor", terminal.screen())
    silent = Options(lookups="", list_tasks=False, unique_external_ids=False)
    async with working(options=silent) as (sandbox, terminal):
        sandbox.faults.add(Fault("drop_after_charge"))
        one = "comet-async expand photos/rocket.jpg --out wide --to 2:1 --settle 1"
        await asyncio.to_thread(Terminal(terminal.folder, terminal.environment).run, one)
        await asyncio.to_thread(terminal.run, "comet-async jobs wide --uncertain")
        save("uncertain", terminal.screen())


@contextlib.asynccontextmanager
async def working(
    options: Options | None = None, *, speed: float = 20
) -> AsyncGenerator[tuple[Sandbox, Terminal], None]:
    """Start a sandbox, and a terminal in a folder with photos."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos = folder / "photos"
        shutil.copytree(PHOTOS, photos, ignore=shutil.ignore_patterns("*.md"))
        async with Sandbox(
            port=PORT, seed=1, speed=speed, engine="pillow", options=options
        ) as sandbox:
            environment = os.environ | {
                "COMETAPI_KEY": DEFAULT_KEY,
                "COMETAPI_API_ROOT": sandbox.url,
                "HOME": name,
                "TERM": "xterm-256color",
            }
            yield sandbox, Terminal(folder, environment)


def save(name: str, screen: pyte.Screen) -> None:
    """Write the screen as an SVG file."""
    target = HERE / "_static" / "terminal"
    target.mkdir(exist_ok=True)
    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115 - open as long as the console
    lines = [line_of(screen, row) for row in range(LINES)]
    while lines and not lines[-1].plain.strip():
        lines.pop()
    # Which image is the first to be done differs from run to run.
    lines = [
        line
        for done, group in itertools.groupby(lines, lambda line: line.plain.startswith("done"))
        for line in (sorted(group, key=lambda line: line.plain) if done else group)
    ]
    for line in lines:
        console.print(line, no_wrap=True, crop=True)
    svg = console.export_svg(title="comet-async", theme=MONOKAI, unique_id=name)
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)  # no fonts from elsewhere
    (target / f"{name}.svg").write_text(svg, "utf-8")


def line_of(screen: pyte.Screen, row: int) -> Text:
    """Return one line of the screen with its colours."""
    line = Text()
    for column in range(COLUMNS):
        cell = screen.buffer[row][column]
        colour = None if cell.fg == "default" else cell.fg
        if colour is not None and re.fullmatch(r"[0-9a-f]{6}", colour):
            colour = f"#{colour}"
        style = Style(color=_name(colour), bold=cell.bold, italic=cell.italics)
        line.append(cell.data, style)
    line.rstrip()
    return line


def _name(colour: str | None) -> str | None:
    return {"brown": "yellow", "brightblack": "bright_black"}.get(colour or "", colour)


if __name__ == "__main__":
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    draw_geometry()
    asyncio.run(record_terminal())
