"""``python -m comet_async``: the same as the command ``comet-async``."""

from comet_async.cli import main

if __name__ == "__main__":
    main()
