"""What a head does with what jobs have left that ran on other machines: it takes in their calls, and commits what they made."""

from collections.abc import Mapping
from typing import Any

from ddmake.ddfile.rule import Rule
from ddmake.engine.commit import Made, folder_of, settle
from ddmake.errors import DdmakeError
from ddmake.store import Store
from ddmake.store.traces import Trace


def commit(store: Store, rule: Rule, told: Mapping[str, Any], anew: bool) -> Trace:
    """Commit what a job has made, as its result tells it; calls asked `anew` take the place of those that are known.

    Raises DdmakeError, OSError and sqlite3's errors; it may be done again.
    """
    made = Made(**told)
    _take_in(store, made.key, anew)
    return settle(store, rule, made)


def keep_calls(store: Store, key: str, anew: bool) -> str:
    """Take in the answers that a job has which made nothing: they are paid for. Return why they can't be, "" where they were."""
    try:
        _take_in(store, key, anew)
    except (DdmakeError, OSError) as error:
        return str(error)
    return ""


def _take_in(store: Store, key: str, anew: bool) -> None:
    folder = folder_of(store, key)
    for room in [folder, *sorted(folder.glob("shards/*"))] if folder.is_dir() else ():
        from ddmake.calls.merging import merge  # what most runs needn't load

        merge(store.folder, room, anew)
