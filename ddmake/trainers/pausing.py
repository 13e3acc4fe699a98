"""Breaking a training off before its time on a machine is over: it keeps a checkpoint, and goes on in another job.

Whoever has started the job says so by a file. The first process looks for it after each step, and the others do as it does.
"""

import os

from ddmake.backends.stopping import Stopped

WARNED = "DDMAKE_WARNED"  # where that file will be


class Paused(Stopped):
    """A training has stopped after a step that it keeps a checkpoint of; so many it has `gained` since it last began."""

    def __init__(self, step: int, gained: int):
        super().__init__(step, gained)
        self.step, self.gained = step, gained


def warned() -> bool:
    """Tell whether this job's time is nearly over."""
    file = os.environ.get(WARNED)
    return file is not None and os.path.exists(file)
