"""``comet-async completion``: a script for the shell, made by the command-line library."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from comet_async.cli.console import DONE
from comet_async.cli.options import USUAL, General

_FILES_OF_BASH = 'COMPREPLY=( $(compgen -f -- "${cur}") )'
"""What the script has for names of files: it breaks them at spaces, and ends folders with one. Bash
itself completes them correctly when it is left to do so."""


async def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], Parameter(help="Your shell.")],
    /,
    *,
    general: General = USUAL,  # noqa: ARG001 - read by the program before the command runs
) -> int:
    """Print the script."""
    from comet_async.cli.commands import app  # noqa: PLC0415 - it imports every command by name

    script = app.generate_completion(shell=shell)
    if shell == "bash":
        script = script.replace(_FILES_OF_BASH, "COMPREPLY=()")
        script = script.replace("\ncomplete -F ", "\ncomplete -o default -F ")
    print(script)  # noqa: T201 - the result, line by line
    return DONE
