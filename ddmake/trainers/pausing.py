"""Breaking a training off before its time on a machine is over: it keeps a checkpoint, and goes on in another job.

The first process looks after each step whether it is `warned`, and the others do as it does.
"""

from ddmake.backends.stopping import Stopped


class Paused(Stopped):
    """A training has stopped after a step that it keeps a checkpoint of; so many it has `gained` since it last began."""

    def __init__(self, step: int, gained: int):
        super().__init__(step, gained)
        self.step, self.gained = step, gained
