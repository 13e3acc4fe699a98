"""Runs a server, and ends it with all that it started once nobody wants it: `python keeper.py COMMAND …`.

Standard input is a pipe that nobody writes to. Its other end is held by the process that wants the server, so that it closes
however that process ends. The server, and what it starts, are in this process's group. Imports nothing of ddmake's: it is
run by its path, and lives as long as the server.
"""

import os
import signal
import subprocess
import sys
import threading
import time

GRACE = 10.0  # seconds that a server may take to end when it is asked to


def keep(command: list[str]) -> None:
    """Run a command until it ends, and then end whatever it has left behind."""
    signal.signal(signal.SIGTERM, lambda *_: None)  # a handler, unlike SIG_IGN, isn't inherited
    try:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    except OSError as error:
        sys.exit(f"ddmake: the server can't be started: {error}")
    threading.Thread(target=_watch, daemon=True).start()
    code = server.wait()
    told = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    print(f"ddmake: the server {told}", flush=True)
    os.killpg(0, signal.SIGKILL)


def _watch() -> None:
    """Wait until nobody wants the server any more, and end it, softly at first."""
    while os.read(0, 4096):
        pass
    os.killpg(0, signal.SIGTERM)
    time.sleep(GRACE)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    keep(sys.argv[1:])
