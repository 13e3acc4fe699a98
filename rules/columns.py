"""Which columns a recipe needs and which it adds: told when a job is planned, where its inputs are there, and when it starts."""

from collections.abc import Iterable, Sequence

from ddmake.errors import DdfileError, did_you_mean

Columns = Sequence[str] | None  # None: not known yet


def need(columns: Columns, name: str, what: str) -> None:
    """Raise DdfileError where a column isn't among those that are known; `what` says what it is for: "to embed"."""
    if columns is not None and name not in columns:
        has = f"There are: {', '.join(columns)}." if columns else "There are none."
        raise DdfileError(f"there is no column {name!r} {what}. {has}{did_you_mean(name, columns)}")


def free(columns: Columns, names: Iterable[str], recipe: str) -> None:
    """Raise DdfileError where a column that a recipe adds is there already."""
    taken = next((name for name in names if columns is not None and name in columns), None)
    if taken is not None:
        raise DdfileError(f"{recipe} adds a column {taken!r}, and there is one already: .rename() it.")


def added(columns: Columns, *names: str) -> list[str] | None:
    """Return the columns with more behind them; one that is there already keeps its place."""
    return None if columns is None else list(dict.fromkeys([*columns, *names]))
