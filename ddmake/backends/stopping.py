"""Stopping a job softly: requests in flight are answered first, since they are paid for, and no more are sent."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stopped(BaseException):
    """The head asks this job to end."""


class _State:
    asked = False  # whether the job is to end
    in_flight = 0  # passes over requests that wait for answers


def ask(tell: Callable[[], None]) -> None:
    """Ask the job of this process to end: at once by raising Stopped, or once its requests in flight are answered.

    In the latter case `tell` is called.
    """
    _State.asked = True
    if not _State.in_flight:
        raise Stopped
    tell()


def asked() -> bool:
    """Tell whether the job is to end: no further request is sent then."""
    return _State.asked


@contextmanager
def finishing() -> Iterator[None]:
    """Hold off the end of the job while requests are in flight, and end it then. Raises Stopped."""
    _State.in_flight += 1
    try:
        yield
    finally:
        _State.in_flight -= 1
        if _State.asked and not _State.in_flight:
            raise Stopped
