"""The caller's process: `python -m ddmake.calls FOLDER FD [LIMIT]`, as calls/switch.py starts it."""

import asyncio
import gc
import socket
import sys
from pathlib import Path

from ddmake.backends import offline
from ddmake.calls.caller import Caller


async def main(folder: str, listening: str, limit: str | None = None) -> None:
    """Serve the workers that connect to a listening socket, which is inherited."""
    caller = Caller(Path(folder), None if limit is None else float(limit))
    await caller.serve(socket.socket(fileno=int(listening)))


offline.heed()
gc.freeze()
asyncio.run(main(*sys.argv[1:]))
