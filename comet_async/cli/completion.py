"""``comet-async completion``: a script for the shell, made by the command-line library."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from comet_async.cli.console import DONE
from comet_async.cli.options import USUAL, General


async def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], Parameter(help="Your shell.")],
    /,
    *,
    general: General = USUAL,  # noqa: ARG001 - read by the program before the command runs
) -> int:
    """Print the script."""
    from comet_async.cli.commands import app  # noqa: PLC0415 - it imports every command by name

    print(app.generate_completion(shell=shell))  # noqa: T201 - the result, line by line
    return DONE
