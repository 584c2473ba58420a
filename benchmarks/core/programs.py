"""The benchmark's own programs: each measurement is a fresh process."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from subprocess import run

ROOT = Path(__file__).parents[2]
"""Where they are started, so that they find this package."""

# Without it they would not look there.
ENVIRONMENT = {name: text for name, text in os.environ.items() if name != "PYTHONSAFEPATH"}


def output(module: str, *words: str, timeout: float = 600) -> str:
    """Run a module of this package as a program, and return what it prints.

    Raises:
        RuntimeError: It failed; the text is the end of what it said.
    """
    command = [sys.executable, "-m", f"benchmarks.{module}", *words]
    done = run(  # noqa: S603 - ours
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
        cwd=ROOT,
        env=ENVIRONMENT,
    )
    if done.returncode:
        message = f"{module} {words}: {done.stderr[-2000:]}"
        raise RuntimeError(message)
    return done.stdout


def last_line(module: str, *words: str, timeout: float = 600) -> str:
    """Return the last line of `output`."""
    return output(module, *words, timeout=timeout).splitlines()[-1]
