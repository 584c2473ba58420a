"""Options from files: the program's own configuration file, and ``pyproject.toml``.

The command line comes first, then ``[tool.comet-async]`` of the current project, then the table of
the command in the user's own file. A project may only say how images look and how much is shown: a
cloned repository must not redirect a key, spend more, or confirm anything.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from cyclopts.config import Dict

from comet_async.cli.help import COMMANDS
from comet_async.errors import ConfigError

if TYPE_CHECKING:
    from cyclopts import App
    from cyclopts.argument import ArgumentCollection

PROJECT = "pyproject.toml"

_SHAPE = frozenset({"up", "down", "left", "right", "to", "size", "anchor"})
_OWN = frozenset({"prompt", "concurrency", "json", "json-progress", "report", "quiet", "verbose"})

ALLOWED = _SHAPE | _OWN
"""What a project's table may set."""

# Options of which one given on the command line replaces the whole set in a file.
_SETS = (_SHAPE, frozenset({"gateway", "sandbox"}))


@attrs.frozen
class Layer:
    """The options that one file sets.

    Attributes:
        options: By command; or, when it is flat, for each command that has them.
        source: The file, as errors name it.
        flat: Whether the options are not sorted by command.
    """

    options: Mapping[str, Any] = attrs.field(hash=False)
    source: str
    flat: bool

    def __call__(self, app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
        """Fill in what the command line and layers before this one leave open."""
        own: Mapping[str, Any] = self.options
        if not self.flat:
            own = own.get(commands[0], {}) if commands else {}
        given = {
            name.lstrip("-") for argument in arguments if argument.tokens for name in argument.names
        }
        replaced: set[str] = set()
        for each in _SETS:
            if given & each:
                replaced |= each
        left = {key: value for key, value in own.items() if _dashed(key) not in replaced}
        # Nested under the command: cyclopts would take an option named like a command for that one.
        for name in reversed(commands):
            left = {name: left}
        Dict(left, source=self.source, allow_unknown=self.flat)(app, commands, arguments)


def layers() -> tuple[Layer, ...]:
    """Return what files set, the strongest first.

    Raises:
        ConfigError: A file can't be read, or a project sets what is not its business.
    """
    found = []
    if (path := project_file(Path.cwd())) is not None:
        table = _read(path).get("tool", {}).get("comet-async", {})
        if table:
            _check(table, path)
            found.append(Layer(table, f"[tool.comet-async] of {path}", flat=True))
    own = own_file()
    tables = {name: each for name, each in _read(own).items() if isinstance(each, dict)}
    _check_commands(tables, own)
    if tables:
        found.append(Layer(tables, str(own), flat=False))
    return tuple(found)


def own_file() -> Path:
    """Return where the program's own configuration file is, or would be."""
    from comet_async.config import config_path  # noqa: PLC0415 - it is not needed for --help

    return config_path(os.environ)


def project_file(folder: Path) -> Path | None:
    """Return the nearest ``pyproject.toml``, in *folder* or above it."""
    return next((p for each in (folder, *folder.parents) if (p := each / PROJECT).is_file()), None)


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as exc:
        raise ConfigError(f"{path} can't be read: {exc}", hint="correct or remove it") from None


def _check(table: Mapping[str, Any], path: Path) -> None:
    """Refuse what a project must not set.

    Raises:
        ConfigError: It sets such an option.
    """
    for name in table:
        if _dashed(name) in ALLOWED:
            continue
        near = suggest(_dashed(name), ALLOWED)
        raise ConfigError(
            f"{path}: [tool.comet-async] can't set {name}",
            hint=near
            or f"it can set: {', '.join(sorted(ALLOWED))}; all others belong in "
            f"{own_file()} or on the command line",
        )


def _check_commands(tables: Iterable[str], path: Path) -> None:
    """Refuse options of a command that does not exist: a limit in them would never hold.

    Raises:
        ConfigError: There is such a table.
    """
    known = [name for commands in COMMANDS.values() for name, *_ in commands]
    for name in tables:
        if name not in known:
            raise ConfigError(
                f"{path} has a table [{name}], which is not a command",
                hint=suggest(name, known)
                or f"it may have {', '.join(f'[{each}]' for each in known)}",
            )


def suggest(name: str, known: Iterable[str]) -> str | None:
    """Return "did you mean …?", or None if nothing is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]}?" if near else None


def _dashed(name: str) -> str:
    return name.replace("_", "-")
