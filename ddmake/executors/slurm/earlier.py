"""Jobs that other heads have submitted, which are gone or will be: whoever is asked for the same listens to them."""

import os
import time
from contextlib import suppress
from pathlib import Path

from ddmake.errors import DdmakeError
from ddmake.executors.slurm import waves
from ddmake.executors.slurm.commands import Commands, NoAnswer
from ddmake.executors.slurm.waves import Wave

MOMENT = 1.0  # seconds for which whoever only looks at a wave may have its lock
LOOK = 0.05  # seconds between two looks at it


class Earlier:
    """The waves of other heads under a project's `.ddmake`, found by what their jobs are to make.

    Raises DdmakeError where it has to be asked whether a wave was submitted, and Slurm doesn't answer.
    """

    def __init__(self, store: Path, commands: Commands):
        self.store, self.commands = store, commands
        self.known: set[str] = set()  # tokens of the waves that are known of, this head's among them
        self._jobs: dict[str, tuple[Wave, int]] = {}  # by key: the last wave that has it, and the number there
        waves.sweep(store)
        found = self._find()
        self._clear(found)

    def taken_up(self, key: str) -> tuple[Wave, int] | None:
        """Return the wave in which another head has submitted a job, and its number there; None where there is none."""
        if waves.tokens(self.store) - self.known:  # of a head that runs beside this one, or did
            self._find()
        return self._jobs.get(key)

    def lock(self, wave: Wave, number: int) -> int | None:
        """Return a wave's lock; None where another head listens to it, who has heard of the job, since its rule is free."""
        deadline = time.monotonic() + MOMENT
        while (lock := wave.own()) is None and time.monotonic() < deadline and wave.may_end(number):
            time.sleep(LOOK)
        return lock

    def over(self, wave: Wave) -> set[int]:
        """Return the jobs of which nothing is to be heard: a head has, though it may have been killed before it could say so."""
        return wave.settled() | {number for number in wave.ended() if self._taken_in(wave, number)}

    def tidy(self) -> None:
        """Clear away the waves of which nothing is to be heard any more."""
        for wave in {wave.token: wave for wave, _ in self._jobs.values()}.values():
            with suppress(FileNotFoundError):  # another head has done it
                if len(self.over(wave)) == len(wave.jobs) and (lock := wave.own()) is not None:
                    wave.remove()
                    os.close(lock)

    def forget(self, key: str) -> None:
        """Forget a job: this head listens to it, or nobody has to."""
        self._jobs.pop(key, None)

    def _taken_in(self, wave: Wave, number: int) -> bool:
        """Tell whether what a job made was put into place: where it worked, as `engine.commit` has it, nothing lies then."""
        result, room = wave.result(number), self.store / "scratch" / wave.jobs[number].key[:32]
        made = result.get("made", {}).get("scratch", {}).values()
        return result["word"] != "failed" and not any(map(os.path.lexists, made or [room]))

    def _find(self) -> list[Wave]:
        """Take in the waves that are not known yet, and return them."""
        found = list(waves.every(self.store, self.known))
        for wave in found:
            self.known.add(wave.token)
            with suppress(FileNotFoundError):  # another head has just cleared it away
                over = self.over(wave)
                self._jobs.update({task.key: (wave, number) for number, task in enumerate(wave.jobs) if number not in over})
        return found

    def _clear(self, found: list[Wave]) -> None:
        """Clear away the waves of which nothing is to be heard: those that were never submitted, and what later ones do."""
        left = [(wave, lock) for wave in found if (lock := wave.own()) is not None]
        try:
            self._name([wave for wave, _ in left if wave.id is None])
            for wave, _ in left:
                if wave.id is None and not wave.taken():
                    self._jobs = {key: job for key, job in self._jobs.items() if job[0] is not wave}
            wanted = {wave.token for wave, _ in self._jobs.values()}
            for wave in (wave for wave, _ in left if wave.token not in wanted):
                wave.remove()
        finally:
            for _, lock in left:
                os.close(lock)

    def _name(self, nameless: list[Wave]) -> None:
        """Note the ids of waves whose heads were gone before they could."""
        if not nameless:
            return
        try:
            ids = self.commands.by_token()
        except NoAnswer as why:
            raise DdmakeError(f"{why}, so what an earlier run has submitted isn't known. Try again in a while.") from None
        for wave in nameless:
            if wave.token in ids:
                wave.submitted(ids[wave.token])
