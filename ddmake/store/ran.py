"""Whether a project's Ddfile was run here by whoever asks: until then reports, proofs and shells leave it alone.

The note stands for this very folder. A copy of the folder has another one's, and so the Ddfile of a project that came from
somewhere else counts as never run, whichever way it came.
"""

import os
from contextlib import suppress
from pathlib import Path


def note(folder: Path) -> None:
    """Note in a project's store that its Ddfile was run; where nothing can be written nothing is noted."""
    if not here(folder):
        with suppress(OSError):
            _file(folder).write_text(_number(folder))


def here(folder: Path) -> bool:
    """Tell whether the Ddfile was run here before, by this user."""
    try:
        return _file(folder).read_text() == _number(folder)
    except (OSError, ValueError):
        return False


def why_not(file: Path, folder: Path, asked: bool | None) -> str:
    """Return why a Ddfile isn't to be run for verdicts, in words, by what is asked for; nothing where it may be."""
    if asked is False:
        return f"{file.name} wasn't run for it (--no-verdicts)."
    if asked is None and folder.exists() and not here(folder):
        return f"{file.name} wasn't run here by you before, and isn't run for this: read it first, then say --verdicts."
    return ""


def forget(folder: Path) -> None:
    """Forget that a Ddfile was run, by anybody: what lies beside it has come from elsewhere."""
    for file in folder.glob("ran-*"):
        file.unlink(missing_ok=True)


def _file(folder: Path) -> Path:
    return folder / f"ran-{os.getuid()}"


def _number(folder: Path) -> str:
    return str(folder.stat().st_ino)
