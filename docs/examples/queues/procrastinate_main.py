"""Enqueue a folder, or work on what is queued.

Once:              procrastinate --app=procrastinate_jobs.queue schema --apply
Buys nothing:      python procrastinate_main.py enqueue photos wide
As many as needed: python procrastinate_main.py work

COMETAPI_KEY is the key, and DATABASE_URL the database of the queue and of the journal.
"""

import asyncio
import sys
from pathlib import Path

from procrastinate_jobs import enqueue, work

if __name__ == "__main__":
    command, *folders = sys.argv[1:]
    asyncio.run(enqueue(*map(Path, folders)) if command == "enqueue" else work())
