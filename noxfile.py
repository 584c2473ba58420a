"""Every check of the project; plain ``nox`` runs what CI runs.

``nox --list`` names the sessions, ``nox -s tests-3.12`` runs one of them, and arguments after
``--`` go to the tool: ``nox -s tests-3.11 -- -k waiter``.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import nox


def works(version: str) -> bool:
    """Return True if this Python is installed (a version manager may have a stub for it)."""
    program = shutil.which(f"python{version}")
    return program is not None and not subprocess.run([program, "-c", ""], check=False).returncode


HERE = Path(__file__).parent
PROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PROJECT)
OLDEST = PYTHONS[0]
# Run by hosted CI; becomes a classifier once its runs are green.
UPCOMING = ["3.14"]
# The newest installed Python that has asyncio.eager_task_factory; skipped where there is none.
NEWEST_WITH_EAGER_TASKS = next(filter(works, ("3.14", "3.13", "3.12")), "3.12")
CURRENT = f"{sys.version_info.major}.{sys.version_info.minor}"
ALL_EXTRAS = f".[{','.join(PROJECT['project']['optional-dependencies'])}]"
# Tests see the installed wheel, not the tree that happens to be the current folder.
WHEEL = {"PYTHONSAFEPATH": "1"}
# What talks to a dependency; the rest would only run a second time.
TOUCHING_DEPENDENCIES = [
    "tests/http",
    "tests/images",
    "tests/stores",
    "tests/tools",
    "tests/cli",
    "tests/sandbox",
    "tests/postgres",
    "tests/test_auth.py",
    "tests/test_callbacks.py",
    "tests/test_exports.py",
    "tests/test_backoff.py",
    "tests/test_session.py",
]

nox.needs_version = ">=2025.5"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"
nox.options.error_on_missing_interpreters = False
# The tests of one Python come near the end, where pytest's summary is easy to find. Run the other
# versions by name.
nox.options.sessions = [
    "lint",
    "typing",
    "docs",
    "changes",
    "build",
    "examples",
    "lowest",
    f"eager-{NEWEST_WITH_EAGER_TASKS}",
    f"tests-{CURRENT if CURRENT in PYTHONS else OLDEST}",
    "coverage",
]


def group(name: str) -> list[str]:
    """Return the requirements of one dependency group of pyproject.toml."""
    return list(nox.project.dependency_groups(PROJECT, name))


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, spelling, and the prose of the pages."""
    session.install(*group("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("codespell")
    pages = [*HERE.glob("*.md"), *HERE.glob("changes/*.md"), *HERE.glob("docs/**/*.md")]
    session.run("proselint", "check", *map(str, sorted(pages)))


@nox.session
def typing(session: nox.Session) -> None:
    """Check the types of the library, and what a user's program sees of them."""
    # This file and the documentation's configuration are checked, too.
    needed = (*group("typing"), *group("test"), *group("docs"), "nox")
    session.install(ALL_EXTRAS, *needed)
    session.run("mypy")
    session.run("pyright")
    # Fails below 100 %: then a user's type checker would have to guess at a public name.
    session.run("pyright", "--verifytypes", "comet_async", "--ignoreexternal")


@nox.session(python=[*PYTHONS, *UPCOMING])
def tests(session: nox.Session) -> None:
    """Run all tests against the installed wheel, in two processes, and measure coverage."""
    session.install(ALL_EXTRAS, *group("test"))
    everything = ("-n", "2", "-m", "", "--hypothesis-profile=ci")
    env = {"COVERAGE_FILE": str(HERE / f".coverage-{session.python}"), **WHEEL}
    session.run("coverage", "erase", env=env)
    session.run("coverage", "run", "-m", "pytest", *(session.posargs or everything), env=env)


@nox.session(python=OLDEST)
def lowest(session: nox.Session) -> None:
    """Run the tests that old dependencies can break, with the oldest Python and dependencies."""
    session.install("--constraint", "constraints/lowest.txt", ALL_EXTRAS, *group("test"))
    quick = ("-q", "-n", "2", "-m", "not slow", "--hypothesis-profile=quick")
    session.run("pytest", *quick, *(session.posargs or TOUCHING_DEPENDENCIES), env=WHEEL)


@nox.session(python=NEWEST_WITH_EAGER_TASKS)
def eager(session: nox.Session) -> None:
    """Run the session contract with eager tasks, which Python has from 3.12 on."""
    session.install(ALL_EXTRAS, *group("test"))
    env = {"COMET_TEST_EAGER_TASKS": "1", **WHEEL}
    session.run("pytest", "-q", *(session.posargs or ["tests/test_session_contract.py"]), env=env)


@nox.session(python=OLDEST)
def fleet(session: nox.Session) -> None:
    """Hurt a fleet of workers in 20 ways, drawn by chance; takes half an hour, not in plain nox."""
    session.install(ALL_EXTRAS, *group("test"))
    env = {"FLEET_SEEDS": "20", **WHEEL}
    session.run("pytest", "-q", "-m", "", *(session.posargs or ["tests/postgres"]), env=env)


@nox.session
def coverage(session: nox.Session) -> None:
    """Report lines that no test covered; fail below the threshold."""
    session.install("coverage")
    session.run("coverage", "combine", "-q", "--keep", *map(str, HERE.glob(".coverage-*")))
    session.run("coverage", "report")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation and test the pages. A broken link is an error; needs no network."""
    session.install(ALL_EXTRAS, *group("docs"), *group("test"))
    session.run("sphinx-build", "-n", "-W", "--keep-going", "-q", "-E", "docs", "docs/_build/html")
    # Links, search, each page in a browser if there is one, and files to deploy: tests that other
    # sessions skip.
    pages = ("tests/test_documentation_site.py", "tests/test_deployment_files.py")
    session.run("pytest", "-q", "-n", "2", "-m", "", *pages)
    session.log("docs/_build/html/index.html")


@nox.session
def build(session: nox.Session) -> None:
    """Build the wheel, install it alone, import every name, and run ``comet-async --help``."""
    session.install(*group("build"))
    dist = Path(session.create_tmp()) / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(dist), silent=True)
    session.run("twine", "check", "--strict", *map(str, sorted(dist.iterdir())))
    wheel = next(dist.glob("*.whl"))
    names = zipfile.ZipFile(wheel).namelist()
    unexpected = [name for name in names if not name.startswith(("comet_async/", "comet_async-"))]
    if unexpected or "comet_async/py.typed" not in names:
        session.error(f"The wheel contains {unexpected} besides the package, or lacks py.typed")

    fresh = Path(session.create_tmp()) / "fresh"
    session.run(sys.executable, "-m", "virtualenv", "--clear", "-q", str(fresh), external=True)
    python, program = str(fresh / "bin" / "python"), str(fresh / "bin" / "comet-async")
    session.run(python, "-m", "pip", "install", "-q", str(wheel), external=True)
    # -I: from the wheel, never from the current folder. Every name, with no extra installed.
    every_name = "import comet_async as c; print(*(getattr(c, name) for name in c.__all__))"
    session.run(python, "-I", "-c", every_name, external=True, silent=True)
    session.run(python, "-m", "pip", "install", "-q", f"{wheel}[cli]", external=True)
    session.run(program, "--help", external=True, silent=True)


@nox.session
def examples(session: nox.Session) -> None:
    """Run every program of docs/examples against the sandbox, in a folder with photos."""
    programs = sorted(Path("docs/examples").glob("*.py"))
    if not programs:
        session.skip("docs/examples has no program")
    session.install(ALL_EXTRAS)
    folder = Path(session.create_tmp()) / "photos"
    port = free_port()
    sandbox = subprocess.Popen(
        [Path(session.bin) / "comet-async", "sandbox", "--port", str(port), "--speed", "20"]
    )
    try:
        wait_until_up(port, sandbox)
        env = {"COMETAPI_KEY": "sandbox-key", "COMETAPI_API_ROOT": f"http://127.0.0.1:{port}"}
        for program in programs:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree("examples/photos", folder)
            with session.chdir(folder.parent):
                session.run("python", str(HERE / program), env=env)
    finally:
        sandbox.terminate()
        sandbox.wait(10)


def free_port() -> int:
    """Return a free loopback port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def wait_until_up(port: int, program: subprocess.Popen[bytes]) -> None:
    """Wait until *program* listens on *port*; fail if it exits, or after 30 seconds."""
    for _ in range(300):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if program.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError("the sandbox did not start")


@nox.session
def changes(session: nox.Session) -> None:
    """Show the change notes as CHANGELOG.md will have them; a misnamed note is an error."""
    session.install(*group("changes"))
    kinds = {kind["directory"] for kind in PROJECT["tool"]["towncrier"]["type"]}
    for note in Path("changes").iterdir():
        if note.name != "README.md" and note.suffixes[-2:] not in [[f".{k}", ".md"] for k in kinds]:
            session.error(f"changes/{note.name}: expected +<words>.<one of {sorted(kinds)}>.md")
    session.run("towncrier", "build", "--draft")


@nox.session
def figures(session: nox.Session) -> None:
    """Write the generated parts of the documentation anew, and draw its figures and screens."""
    session.install(ALL_EXTRAS, *group("figures"))
    session.run("python", "docs/generated.py")
    session.run("python", "docs/figures.py")


@nox.session
def bench(session: nox.Session) -> None:
    """Run the benchmarks next to other clients; takes minutes, not part of plain ``nox``."""
    session.install(ALL_EXTRAS, *group("bench"))
    session.run("python", "-m", "benchmarks", *session.posargs)
