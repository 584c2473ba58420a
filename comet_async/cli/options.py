"""Options that several commands share, in the groups in which ``--help`` shows them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeAlias

import attrs
from cyclopts import Group, Parameter, Token

from comet_async.errors import InputError
from comet_async.geometry import Anchor, MarginRule, Margins

SHAPE = Group("Shape: margins, or --to, or --size", sort_key=1)
REQUEST = Group("Request", sort_key=2)
SERVICE = Group("Service", sort_key=3)
MONEY = Group("Money", sort_key=4)
AGAIN = Group("Running again", sort_key=5)
SOURCES = Group("Sources", sort_key=6)
OUTPUT = Group("Output", sort_key=0)
GENERAL = Group("General", sort_key=9)

Named: TypeAlias = str | Path
"""A file or something else: it stays text, as cyclopts takes the first type that will do, and
shells complete the names of files for it, as one of the types is a path."""

_SIZE = re.compile(r"\s*([0-9]{1,6})\s*[xX×]\s*([0-9]{1,6})\s*")


def whole(_type: object, tokens: Sequence[Token]) -> int:
    """Return the whole number that was typed; cyclopts itself would round 1.5 to 2.

    Raises:
        ValueError: It is not a whole number.
    """
    text = tokens[0].value
    if re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        return int(text)
    raise ValueError(f"{text} is not a whole number")


def folder(_type: object, tokens: Sequence[Token]) -> Path:
    """Return the folder that was typed; an empty word, as of a variable that is not set, is none.

    Raises:
        ValueError: It is empty, or called like an image.
    """
    from comet_async._images.naming import SUFFIXES  # noqa: PLC0415 - `--help` must be there soon

    typed = tokens[0].value
    if not typed.strip():
        raise ValueError("it is empty: name a folder, or . for the current one")
    path = Path(typed)
    if path.suffix.lower() in SUFFIXES and not path.exists():
        raise ValueError(f"{typed} is a name for an image, and --out names the folder for it")
    return path


def address(folder: Path) -> str | None:
    """Return the address in a store that *folder* was typed as, or None if it is a folder."""
    found = re.fullmatch("([a-z][a-z0-9]+):(?:/(.*))?", folder.as_posix())
    return f"{found[1]}://{found[2] or ''}" if found else None


@Parameter(name="*", group=SHAPE)
@attrs.frozen(kw_only=True)
class Geometry:
    """How far images grow: four margins, a shape, or a size."""

    up: Annotated[
        float | None,
        Parameter(metavar="SHARE", help="Add above, as a share of the height: 0.5 adds half."),
    ] = None
    down: Annotated[
        float | None, Parameter(metavar="SHARE", help="Add below, as a share of the height.")
    ] = None
    left: Annotated[
        float | None, Parameter(metavar="SHARE", help="Add at the left, as a share of the width.")
    ] = None
    right: Annotated[
        float | None, Parameter(metavar="SHARE", help="Add at the right, as a share of the width.")
    ] = None
    to: Annotated[
        str | None,
        Parameter(
            metavar="SHAPE", help="Grow to this shape, adding as little as possible: 16:9, 1.5."
        ),
    ] = None
    size: Annotated[
        str | None,
        Parameter(
            metavar="WxH",
            help="Grow to a canvas of exactly this many pixels; nothing is scaled, so the image "
            "must be smaller, but not by much. --to fits any image.",
        ),
    ] = None
    anchor: Annotated[
        Anchor | None,
        Parameter(
            metavar="PLACE", help="Where the image sits with --to or --size; center by default."
        ),
    ] = None

    def rule(self) -> MarginRule:
        """Return the margins, or the rule that makes them.

        Raises:
            InputError: None or several of the three ways are used, or a value is out of range.
        """
        sides = {
            name: value
            for name in ("up", "down", "left", "right")
            if (value := getattr(self, name)) is not None
        }
        ways = [f"--{name}" for name in sides]
        ways += [f"--{name}" for name in ("to", "size") if getattr(self, name) is not None]
        self._check(ways, by_sides=bool(sides))
        if self.to is not None:
            return Margins.for_aspect(self.to, anchor=self.anchor or "center")
        if self.size is not None:
            return _canvas(self.size, self.anchor or "center")
        margins = Margins(**sides)
        if margins.empty:
            raise _wrong("nothing would be added: all margins are 0", "give one above 0")
        return margins

    def _check(self, ways: list[str], *, by_sides: bool) -> None:
        if not ways:
            hint = "add --to 16:9, or --size 1920x1080, or any of --up, --down, --left, --right"
            raise _wrong("how far should the images grow?", hint)
        if len(ways) > 1 and not (by_sides and self.to is None and self.size is None):
            raise _wrong(
                f"{' and '.join(ways)} can't be used together",
                "margins, --to and --size are three ways to say the same thing: choose one",
            )
        if by_sides and self.anchor is not None:
            raise _wrong(
                "--anchor needs --to or --size", "margins already say where the image sits"
            )


def _canvas(text: str, anchor: Anchor) -> MarginRule:
    found = _SIZE.fullmatch(text)
    if found is None:
        raise _wrong(f"--size {text!r} is not a width and a height", "write it like 1920x1080")
    return Margins.for_size(int(found[1]), int(found[2]), anchor=anchor)


def _wrong(message: str, hint: str) -> InputError:
    return InputError(message, field="margins", limit="one way to say it", hint=hint)


PROXY = Parameter(
    metavar="URL",
    group=SERVICE,
    help="Send everything through this HTTP proxy. By default what the configuration file says, "
    "else HTTPS_PROXY, ALL_PROXY and NO_PROXY.",
)


@Parameter(name="*", group=SERVICE)
@attrs.frozen(kw_only=True)
class Connection:
    """Where the API is, and how it is reached."""

    gateway: Annotated[
        str | None,
        Parameter(
            metavar="NAME|URL",
            help="comet, kling, sandbox, or an address. By default what the environment or the "
            "configuration file says, else CometAPI.",
        ),
    ] = None
    sandbox: Annotated[
        bool,
        Parameter(
            help="Use a local server that paints the new edges itself: no key, no cost. Same as "
            "--gateway sandbox."
        ),
    ] = False
    proxy: Annotated[str | None, PROXY] = attrs.field(default=None, repr=False)

    @property
    def is_sandbox(self) -> bool:
        """True when the sandbox of this process is wanted.

        Raises:
            InputError: The two options contradict each other.
        """
        if self.sandbox and self.gateway not in {None, "sandbox"}:
            msg = f"--sandbox and --gateway {self.gateway} can't be used together"
            raise InputError(msg, field="gateway", value=self.gateway, hint="choose one")
        return self.sandbox or self.gateway == "sandbox"


@Parameter(name="*", group=SERVICE)
@attrs.frozen(kw_only=True)
class SharedConnection(Connection):
    """The same for commands that share a queue: the sandbox of one command is not for them."""

    gateway: Annotated[
        str | None,
        Parameter(
            metavar="NAME|URL",
            help="comet, kling, or an address. By default what the environment or the "
            "configuration file says, else CometAPI.",
        ),
    ] = None
    # Refused with a hint, and so not offered.
    sandbox: Annotated[bool, Parameter(show=False)] = False
    proxy: Annotated[str | None, PROXY] = attrs.field(default=None, repr=False)


@Parameter(name="*", group=GENERAL)
@attrs.frozen(kw_only=True)
class General:
    """What every command understands."""

    quiet: Annotated[
        bool, Parameter(name=("--quiet", "-q"), help="Show problems only: for cron and scripts.")
    ] = False
    verbose: Annotated[
        bool, Parameter(name=("--verbose", "-v"), help="Show details: what is sent and retried.")
    ] = False
    log: Annotated[
        Path | None,
        Parameter(metavar="FILE", help="Append all messages, with their times, to this file."),
    ] = None
    debug: Annotated[
        bool, Parameter(help="Show tracebacks and all log messages: for reports of problems.")
    ] = False


def check_seconds(name: str, value: float | None, *, zero: bool = False) -> float | None:
    """Return *value* if it is a usable number of seconds.

    Args:
        name: The option, without its dashes.
        value: What was given; None if nothing was.
        zero: Whether 0 is a usable number.

    Raises:
        InputError: It is not finite, negative, or 0 where that makes no sense.
    """
    if value is None or (math.isfinite(value) and (value > 0 or (zero and value == 0))):
        return value
    limit = "0 or more" if zero else "more than 0"
    msg = f"--{name} {value:g} must be a number of seconds, {limit}"
    raise InputError(msg, field=name, value=value, limit=limit, hint=f"write it like --{name} 60")


# Defaults of commands: frozen, so that all can share them.
NO_GEOMETRY = Geometry()
USUAL_CONNECTION = Connection()
USUAL_SHARED = SharedConnection()
USUAL = General()
