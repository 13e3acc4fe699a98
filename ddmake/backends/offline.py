"""The network, switched off: `--frozen` makes everything from what is stored.

Python refuses to connect and to look names up, whoever asks it to, in the processes of a run; sockets between processes of this
machine (AF_UNIX) stay. Not held by this are libraries that open sockets without Python, and programs that a rule starts: these
find a proxy that isn't there, which curl, wget, git and pip heed.
"""

import errno
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

FROZEN = "DDMAKE_FROZEN"  # the environment variable by which processes of a run hear of it
NOWHERE = "http://127.0.0.1:9"
SETTINGS = {FROZEN: "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "WANDB_MODE": "offline",
            **{name: NOWHERE for proxy in ("http_proxy", "https_proxy", "all_proxy") for name in (proxy, proxy.upper())}}
HERE = (None, "", "localhost", "127.0.0.1", "::1", b"localhost", b"127.0.0.1")  # what servers of this machine are bound to
REFUSAL = "the network is off (--frozen)"

_hooked = False


def is_on() -> bool:
    """Tell whether this process belongs to a run from which nothing is sent."""
    return FROZEN in os.environ


@contextmanager
def frozen(wanted: bool) -> Iterator[None]:
    """Switch the network off, if that is wanted, for this process and all that it starts meanwhile."""
    if not wanted:
        yield
        return
    before = {name: os.environ.get(name) for name in SETTINGS}
    os.environ.update(SETTINGS)
    heed()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def heed() -> None:
    """Refuse connections from now on, if this process belongs to such a run; a hook can't be taken off again."""
    global _hooked
    if is_on() and not _hooked:
        sys.addaudithook(_refuse)
        _hooked = True


def _refuse(event: str, given: tuple[Any, ...]) -> None:
    if not event.startswith("socket.") or not is_on():
        return
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        outside = given[0].family != socket.AF_UNIX
    else:
        outside = event in ("socket.getaddrinfo", "socket.gethostbyname") and given[0] not in HERE
    if outside:
        raise ConnectionRefusedError(errno.ECONNREFUSED, REFUSAL)
