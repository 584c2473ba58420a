"""The command ``comet-async``.

It imports nothing but the standard library until `main` is called, so that a missing extra is one
clear line.
"""

from __future__ import annotations

import os
import sys

_NEEDS = {"cyclopts", "rich"}


def main() -> None:
    """Run the command line and end the process with its exit status."""
    _fill_gaps()
    sys.exit(_status())


def _fill_gaps() -> None:
    """Put the null device where a standard stream is missing.

    A file that is opened later would take its number, and get what is meant for the stream.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number


def _status() -> int:
    try:
        from comet_async.cli.app import launch  # noqa: PLC0415 - the sentence at the top

        return launch(sys.argv[1:])
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _NEEDS:
            raise
        from comet_async.errors import install_command  # noqa: PLC0415 - the sentence at the top

        _complain(f"the command line needs {error.name}: {install_command('cli')}")
        return 2
    except KeyboardInterrupt:  # before our own handler is there, or after it is gone
        _complain("interrupted")
        return 130
    except OSError as error:  # `--help | head`, or a full disk behind standard output
        # Python would flush, and fail, once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if not isinstance(error, BrokenPipeError):
            _complain(f"can't write to standard output: {error.strerror}")
        return 1


def _complain(text: str) -> None:
    if sys.stderr is not None:  # a service manager may start the program without it
        sys.stderr.write(f"comet-async: {text}\n")
