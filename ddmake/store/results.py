"""What lies in a project, by its traces alone, and what of it a name on a command line stands for. No Ddfile is asked."""

import os
import unicodedata
from collections.abc import Iterable, Sequence

from ddmake.ddfile.binding import normal
from ddmake.ddfile.selecting import fitting
from ddmake.errors import DdfileError, did_you_mean
from ddmake.store import Store


def paths(store: Store) -> list[str]:
    """Return the paths that results were last put at, those that are gone since among them."""
    return [path for path, in store.traces.db.execute("SELECT path FROM placed ORDER BY path")]


def chosen(store: Store, names: Sequence[str], into: str = "") -> list[str]:
    """Return the paths of results by names, as they are seen from the project's folder or one in it; without names all.

    Raises DdfileError for a name that nothing goes by.
    """
    every = paths(store)
    if not names:
        return [path for path in every if path.startswith(_folder(into)) and os.path.lexists(store.root / path)]
    found = []
    for name in names:
        named_so = named(every, name, into)
        if not named_so:
            near = did_you_mean(name, every) or f" Do: ddmake {name}."
            raise DdfileError(f"Nothing is made at {name!r}.{near} "
                              "(Of an alias, name the targets: the Ddfile isn't run for this.)")
        found += named_so
    return list(dict.fromkeys(found))


def named(every: Iterable[str], name: str, into: str = "") -> list[str]:
    """Return which of all paths a name stands for: that path, else those in a folder, or that a glob fits; first under `into`."""
    forms = {unicodedata.normalize("NFC", path): path for path in every}
    for place in (_folder(into) + normal(name), normal(name)):
        place = unicodedata.normalize("NFC", place)
        if found := [forms[place]] if place in forms else fitting(forms.values(), [place]):
            return found
    return []


def first_of(store: Store, path: str) -> str:
    """Return where the first output of the job lies whose result is at a path, which is what its rule is called."""
    placed = store.traces.at(path)
    first = next(iter(placed[0].outputs)) if placed else ""
    if placed is None or placed[1] == first:
        return path
    beside = store.traces.db.execute("SELECT path FROM placed WHERE trace = ? AND output = ?", (placed[0].id, first)).fetchall()
    return max((other for other, in beside), key=lambda other: len(os.path.commonprefix([other, path])), default=path)


def _folder(into: str) -> str:
    return f"{normal(into)}/" if into else ""
