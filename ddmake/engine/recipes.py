"""Running a recipe in scratch: giving it its parameters, storing what it returns, telling how it failed."""

import os
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ddmake.backends.stopping import Stopped
from ddmake.ddfile.inputs import GIVEN
from ddmake.ddfile.rule import Rule
from ddmake.ddfile.target import ROW_FILES, suffix
from ddmake.errors import DdmakeError, MissingExtra, NotStored, ProviderError, RecipeFailed, did_you_mean
from ddmake.fingerprint.source import is_users
from ddmake.store import secrets

EVERYDAY = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR", "SHELL", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
LONG = 1000  # characters of an error's message that are told


def run(rule: Rule, opened: dict[str, Any], given: dict[str, Any], outputs: dict[str, Path]) -> dict[str, int]:
    """Run a rule's recipe so that each of its outputs lies in scratch, and return how many rows it gave, by output.

    Of outputs that it fills itself, and of a Dataset that it returns, no rows are counted.

    Raises RecipeFailed, with the user's place, for whatever the recipe raises or leaves undone.
    """
    takes = [name for name in rule.recipe.signature.parameters if name in GIVEN]
    single = outputs.get("")
    given = {**given, "output": outputs if single is None else single, "environment": _environment(rule)}
    if "output" in takes:
        for path in (path for path in outputs.values() if not suffix(path)):
            path.mkdir()
    try:
        result = rule.recipe.function(**opened, **{name: given[name] for name in takes})
        return _store(rule, result, outputs, filled="output" in takes)
    except (ProviderError, MissingExtra, NotStored, Stopped):
        raise
    except DdmakeError as error:
        raise RecipeFailed(_told(rule, str(error), error)) from error
    except SystemExit as error:
        raise RecipeFailed(_told(rule, f"it called exit({error.code!r})", error)) from None
    except BaseException as error:  # KeyboardInterrupt, too: the user's own Ctrl-C goes to the head
        raise RecipeFailed(_told(rule, _explained(error, opened), error)) from error


def view_failed(rule: Rule, source: str, rows: Any, error: Exception) -> RecipeFailed:
    """Return how a function failed that a view of a source's rows runs."""
    return RecipeFailed(_told(rule, _explained(error, {source: rows}), error, f"a view of {source}"))


def _environment(rule: Rule) -> dict[str, str]:
    """Return the environment that a rule's programs get: what every program needs, and what the rule declares."""
    return {name: os.environ[name] for name in (*EVERYDAY, *rule.options.env) if name in os.environ}


def _store(rule: Rule, result: Any, outputs: dict[str, Path], filled: bool) -> dict[str, int]:
    counts: dict[str, int | None] = {}
    if filled:
        if result is not None:
            raise RecipeFailed(f"it takes `output`, which it fills itself, and returned a {type(result).__name__} besides")
    elif rule.single:
        counts = {"": _write(result, outputs[""])}
    else:
        counts = _write_parts(result, outputs)
    for path in outputs.values():
        if not path.exists() or path.is_dir() and not any(path.iterdir()):
            raise RecipeFailed("it left its output empty")
    return {name: count for name, count in counts.items() if count is not None}


def _write_parts(result: Any, outputs: dict[str, Path]) -> dict[str, int | None]:
    if not hasattr(result, "keys") or set(result) != set(outputs):
        got = f"a dict with {', '.join(map(str, result))}" if hasattr(result, "keys") else type(result).__name__
        raise RecipeFailed(f"it should return a dict with {', '.join(outputs)}, and returned {got}")
    return {name: _write(result[name], path) for name, path in outputs.items()}


def _write(result: Any, to: Path) -> int | None:
    """Write rows or a Dataset at a path, and return how many rows were counted."""
    from ddmake.artifacts import rows  # a fifth of a second, which a recipe that fills its output doesn't need

    if type(result).__module__.startswith("datasets.") and not suffix(to) and hasattr(result, "save_to_disk"):
        rows.write_dataset(result, to)
        return None
    if isinstance(result, Iterable) and not isinstance(result, (str, bytes, dict)):
        return rows.write(result, to)
    got = "nothing" if result is None else f"a {type(result).__name__}"
    if suffix(to) not in ("", *ROW_FILES):
        raise RecipeFailed(f"it returned {got}; for a {suffix(to)} file it has to take `output` and fill it")
    raise RecipeFailed(f"it returned {got}; return or yield rows (dicts), return a Dataset, or take `output` and fill it")


def _explained(error: BaseException, opened: dict[str, Any]) -> str:
    text = f"{type(error).__name__}: {_message(error)}".removesuffix(": ")
    if isinstance(error, KeyError) and error.args and isinstance(error.args[0], str):
        columns = [name for value in opened.values() for name in getattr(value, "column_names", None) or ()]
        if columns and error.args[0] not in columns:
            text += f". Columns: {', '.join(dict.fromkeys(columns))}.{did_you_mean(error.args[0], columns)}"
    return text


def _message(error: BaseException) -> str:
    """Return what an error says, the rest of a long message being in the log."""
    try:
        text = str(error)
    except Exception:
        return "its message can't be told"
    return text if len(text) <= LONG else f"{text[:LONG]} … (the log has the rest)"


def _told(rule: Rule, text: str, error: BaseException, what: str = "") -> str:
    """Return a failure's sentence with the user's innermost line; the frames go to the log."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if is_users(f.filename)]
    if not isinstance(error, DdmakeError):
        shown = frames or traceback.extract_tb(error.__traceback__)[1:]
        print(secrets.hidden("".join(["Traceback (most recent call last):\n", *traceback.format_list(shown),
                                      *traceback.format_exception_only(error)])), flush=True)
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else rule.place
    return secrets.hidden(f"{what or f'recipe {rule.recipe.name}'} failed ({place}): {text.removeprefix(f'{place}: ')}")
