"""Advice of the library in the words of the command line."""

from __future__ import annotations

import re

import pytest

from comet_async.cli.commands import app
from comet_async.cli.hints import OPTIONS, in_options, with_option
from comet_async.errors import CometError, ConfigError, InputError, OutcomeUnknownError

FUTURE = {"--journal"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("is GIF; prepare=True converts it", "is GIF; --prepare converts it"),
        ("max_jobs=-1 must not be negative", "--max-jobs -1 must not be negative"),
        ("max_spend needs a price above 0", "--max-spend needs a price above 0"),
        ("set it with price=", "set it with --price"),
        ("use retry_failed=True", "use --retry-failed"),
        ("the limit is reached (max_jobs)", "the limit is reached (--max-jobs)"),
        ("give shares, like Margins(up=0.5)", "give shares, like --up 0.5"),
        ("give shares; or use CometSession.measure()", "give shares; or download it first"),
        ("look it up with find('ce1-x')", "look it up with comet-async status ce1-x"),
        ("n=0 must be a whole number", "-n 0 must be a whole number"),
        ("the price of a prompt", "the price of a prompt"),
        ("position=1 is odd", "position=1 is odd"),
    ],
)  # fmt: skip
def test_arguments_become_options(text: str, expected: str) -> None:
    """Only what is written like an argument is one."""
    assert in_options(text) == expected


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (InputError("x", field="prompt", hint="shorten it"), "shorten it (--prompt)"),
        (InputError("--up 3", field="up", hint="give a share"), "give a share"),
        (InputError("up=3 is outside", field="up", hint="give a share"), "give a share"),
        (InputError("aspect 9 needs", field="aspect", hint="choose a shape"), "choose a shape"),
        (ConfigError("x", hint="pass it as api_key, or set COMETAPI_KEY"), "set COMETAPI_KEY"),
        (InputError("x", field="image", hint="prepare=True converts it"), "--prepare converts it"),
        (InputError("x", field="prompt"), None),
        (OutcomeUnknownError("x", hint="see find('ce1-a')"), "see comet-async status ce1-a"),
    ],
)  # fmt: skip
def test_the_option_of_a_field_is_named(error: CometError, hint: str | None) -> None:
    """Unless the message names it already."""
    assert with_option(error) == hint


def test_a_canvas_that_cannot_be_had_leads_to_the_shape() -> None:
    """A size fits hardly any photo; its shape fits each."""
    error = InputError("size 1920x1080 needs 4 times the area", field="size", value="1920x1080")
    hint = with_option(error)
    assert hint is not None
    assert "--to 16:9" in hint


def test_each_option_of_the_table_exists() -> None:
    """The table can't name an option that no command has."""
    names: set[str] = set()
    for command in ("expand", "preview", "jobs", "enqueue", "worker"):
        arguments = app[command].assemble_argument_collection(parse_docstring=False)
        names |= {name for argument in arguments for name in argument.names}
    assert set(OPTIONS.values()) - names <= FUTURE
    assert all(re.fullmatch(r"-{1,2}[a-z-]+", option) for option in OPTIONS.values())
