"""Importing the user's own modules, beside the Ddfile, from their text and never from cached bytecode.

Python trusts a cached .pyc by its source's time stamp and size, which an edit may leave as they were: what runs would
then not be what was hashed.
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, FileFinder, SourceFileLoader
from pathlib import Path

from ddmake.fingerprint.source import is_users

_roots: set[Path] = set()


class FromText(SourceFileLoader):
    """Loads a module from its text; without its stats Python neither reads nor writes bytecode."""

    def path_stats(self, path: str) -> dict[str, float]:
        """Refuse, which is how `importlib` is told that there is no cache."""
        raise OSError("bytecode isn't used here")


def _hook(path: str) -> FileFinder:
    """Find modules in folders of projects; ImportError leaves all other folders to Python."""
    place = Path(path)
    if not any(place.is_relative_to(root) for root in _roots) or {"site-packages", "dist-packages"} & set(place.parts):
        raise ImportError
    return FileFinder(path, (ExtensionFileLoader, EXTENSION_SUFFIXES), (FromText, [".py"]))


def importable(root: Path) -> None:
    """Put a project's folder first in the path of modules, to stay: recipes import from it when they run."""
    if not _roots:
        sys.path_hooks.insert(0, _hook)
    _roots.add(root)
    sys.path[:] = [str(root), *(entry for entry in sys.path if entry != str(root))]
    for entry in list(sys.path_importer_cache):
        if Path(entry).is_relative_to(root):
            del sys.path_importer_cache[entry]
    importlib.invalidate_caches()


@contextmanager
def beside(outer: Path, inner: Path) -> Iterator[None]:
    """Import from an included Ddfile's folder for a while, and not what was imported beside the one that includes it.

    Modules of the same name are then two; those of the included one stay known if the other folder has none of that name.
    """
    if inner == outer:
        yield
        return
    hidden = {name: sys.modules.pop(name) for name in loaded(outer) if name.partition(".")[0] != "Ddfile"}
    importable(inner)
    try:
        yield
    finally:
        importable(outer)
        for name in loaded(inner):
            top = name.partition(".")[0]
            if (outer / f"{top}.py").exists() or (outer / top / "__init__.py").exists():
                del sys.modules[name]
        sys.modules.update(hidden)


def loaded(root: Path) -> dict[str, Path]:
    """Return the files of a project's modules that are loaded, by module name."""
    files = {name: getattr(module, "__file__", None) for name, module in list(sys.modules.items())}
    return {name: Path(file) for name, file in files.items() if file and is_users(file) and Path(file).is_relative_to(root)}


def forget(root: Path) -> None:
    """Drop the modules of a project, so that the next load reads them anew."""
    for name in loaded(root):
        del sys.modules[name]
