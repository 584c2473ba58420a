"""What importing costs, and the help of the command line."""

from __future__ import annotations

import importlib.util
import resource
import sys
from subprocess import DEVNULL, run

from benchmarks.core import plots
from benchmarks.core.bench import Bench, in_rounds, table
from benchmarks.core.programs import ENVIRONMENT, ROOT
from benchmarks.core.report import Section, median

_NOTHING = "python"
_CORE = "aiohttp + attrs + tenacity + yarl"
_CLI = "cyclopts + rich"
_PROGRAMS = {
    _NOTHING: ("-c", "pass"),
    "attrs + yarl": ("-c", "import attrs, yarl"),
    _CORE: ("-c", "import aiohttp, attrs, tenacity, yarl"),
    "comet_async": ("-c", "import comet_async"),
    "comet_async, CometSession": ("-c", "from comet_async import CometSession"),
    "fal-client": ("-c", "import fal_client"),
    "replicate": ("-c", "import replicate"),
    "runwayml": ("-c", "import runwayml"),
    "openai": ("-c", "import openai"),
    "cometapi": ("-c", "import cometapi"),
    _CLI: ("-c", "import cyclopts, rich"),
    "comet_async, --help": ("-m", "comet_async", "--help"),
    "comet_async, expand --help": ("-m", "comet_async", "expand", "--help"),
}


def _installed(name: str) -> bool:
    option, code, *_ = _PROGRAMS[name]
    modules = code.rpartition("import ")[2].split(", ") if code.startswith("import") else []
    return option == "-m" or all(importlib.util.find_spec(module) for module in modules)


def _cpu_ms(name: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, *_PROGRAMS[name]]
    run(command, check=True, cwd=ROOT, env=ENVIRONMENT, timeout=60, stdout=DEVNULL)  # noqa: S603 - ours
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return 1000 * spent


def startup(bench: Bench) -> Section:
    """Measure fresh processes."""
    names = [name for name in _PROGRAMS if _installed(name)]
    for name in names:
        _cpu_ms(name)  # so that all byte code is there
    found = in_rounds(names, _cpu_ms, rounds=bench.count(21, 3))

    def own(name: str, number: int) -> float:
        return found[name][number] - found[_NOTHING][number]

    def share(name: str, base: str) -> float:
        return median([own(name, n) / max(own(base, n), 0.1) for n in found[name]])

    spent = {name: median([own(name, n) for n in found[name]]) for name in names[1:]}
    rows = [[name, f"{spent[name]:.0f}", f"{share(name, _CORE):.2f}"] for name in names[1:]]
    title = (
        f"CPU ms of start-up, without the {median(list(found[_NOTHING].values())):.0f} of Python"
    )
    page, options = (share(f"comet_async, {word}", _CLI) for word in ("--help", "expand --help"))
    drawn = []
    if bench.plots is not None and plots.bars(
        bench.plots / "startup.png", [("CPU of start-up, ms", spent)], form="{:.0f}"
    ):
        drawn.append(("startup.png", "CPU of start-up by library"))
    return Section(
        name="startup",
        title="Start-up",
        words="CPU of a fresh process that imports a library, less that of one that imports "
        f"nothing. The bare import of the command line's libraries ({_CLI}) is the measure of its "
        f"help: `comet-async --help` takes {page:.2f} × that, and `comet-async expand --help`, "
        f"which these libraries lay out, {options:.2f} ×.",
        limit="aiohttp, imported with the first session.",
        tables=[table(title, ("import", "CPU ms", f"× {_CORE}"), rows)],
        plots=drawn,
    )
