"""The command ``comet-async``.

Rule of this file: it imports nothing but the standard library until `main` is called, so that
a missing extra is one clear line.
"""

from __future__ import annotations

import os
import sys

_NEEDS = {"cyclopts", "rich"}


def main() -> None:
    """Run the command line and end the process with its exit status."""
    sys.exit(_status())


def _status() -> int:
    try:
        from comet_async.cli.app import launch  # noqa: PLC0415 - the rule above

        return launch(sys.argv[1:])
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _NEEDS:
            raise
        sys.stderr.write(
            f"comet-async: the command line needs {error.name}: pip install 'comet-async[cli]'\n"
        )
        return 2
    except KeyboardInterrupt:  # before our own handler is there, or after it is gone
        sys.stderr.write("comet-async: interrupted\n")
        return 130
    except BrokenPipeError:  # `--help | head`: Python would flush, and fail, once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
