"""Draw the figures of the documentation: ``python docs/figures.py``, or ``nox -s figures``.

Drawings of margins come from the command's own preview, terminal screens from the command itself,
run against the sandbox in a terminal of a fixed size.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pyte
from PIL import Image
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import MONOKAI
from rich.text import Text

from comet_async.sandbox import DEFAULT_KEY, Sandbox

HERE = Path(__file__).parent
PHOTOS = HERE.parent / "examples" / "photos"
GEOMETRY = {
    "aspect": ["--to", "16:9"],
    "uniform": ["--up", "0.2", "--down", "0.2", "--left", "0.2", "--right", "0.2"],
    "bottom": ["--to", "1:1", "--anchor", "bottom"],
}
COLUMNS, LINES = 90, 40


def draw_geometry() -> None:
    """Draw one image with each kind of margin."""
    target = HERE / "_static" / "geometry"
    target.mkdir(exist_ok=True)
    for name, options in GEOMETRY.items():
        with tempfile.TemporaryDirectory() as folder:
            command = ["comet-async", "preview", str(PHOTOS / "chelsea.jpg"), *options]
            subprocess.run([*command, "--out", folder], check=True, capture_output=True)  # noqa: S603
            (drawing,) = Path(folder).glob("*.png")
            with Image.open(drawing) as image:
                image.thumbnail((600, 600))
                image.convert("RGB").save(target / f"{name}.jpg", quality=85)


async def record_terminal() -> None:
    """Run a folder in a terminal, and again, and draw what the screen shows at the end."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(PHOTOS, Path(folder) / "photos")
        async with Sandbox(speed=20) as sandbox:
            environment = os.environ | {
                "COMETAPI_KEY": DEFAULT_KEY,
                "COMETAPI_API_ROOT": sandbox.url,
                "TERM": "xterm-256color",
            }
            for name, command in {
                "first-run": "comet-async expand photos --out wide --to 2:1",
                "second-run": "comet-async expand photos --out wide --to 2:1",
                "plan": "comet-async expand photos --out other --to 2:1 --dry-run",
                "doctor": "comet-async doctor",
            }.items():
                screen = await asyncio.to_thread(run_in_terminal, command, folder, environment)
                save(name, command, screen)


def run_in_terminal(command: str, folder: str, environment: dict[str, str]) -> pyte.Screen:
    """Return the screen after *command*."""
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    child, descriptor = pty.fork()
    if child == 0:
        os.chdir(folder)
        environment |= {"COLUMNS": str(COLUMNS), "LINES": str(LINES)}
        os.execvpe("/bin/sh", ["sh", "-c", command], environment)  # noqa: S606 - our own command
    with contextlib.suppress(OSError):  # the end of a terminal is an error
        while data := os.read(descriptor, 65536):
            stream.feed(data)
    os.close(descriptor)
    os.waitpid(child, 0)
    return screen


def save(name: str, command: str, screen: pyte.Screen) -> None:
    """Write the screen as an SVG file."""
    target = HERE / "_static" / "terminal"
    target.mkdir(exist_ok=True)
    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    console.print(Text(f"$ {command}", style="bold"))
    lines = [line_of(screen, row) for row in range(LINES)]
    while lines and not lines[-1].plain.strip():
        lines.pop()
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
