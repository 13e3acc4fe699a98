"""Recipes that ask a classifier about rows."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ddmake import step
from ddmake.ddfile.inputs import Free, Model, StoredRows
from ddmake.ddfile.specs import DTYPES
from ddmake.ddfile.target import ModelName
from ddmake.errors import DdfileError, did_you_mean

if TYPE_CHECKING:
    from ddmake.artifacts.rows import Batches


def _classified(inputs: Mapping[str, Any], arguments: Mapping[str, Any]) -> list[str] | None:
    """Tell the columns of `classify`."""
    _check(arguments)
    columns = inputs["rows"]
    for name in filter(None, (arguments["text"], arguments["pair"])):
        if columns is not None and name not in columns:
            raise DdfileError(f"there is no column {name!r} to classify. There are: {', '.join(columns)}."
                              f"{did_you_mean(name, columns)}")
    added = [arguments["column"], *([f"{arguments['column']}_probabilities"] if arguments["probabilities"] else [])]
    return None if columns is None else list(dict.fromkeys([*columns, *added]))


def _check(arguments: Mapping[str, Any]) -> None:
    """Raise DdfileError for arguments that make no sense whatever the model is."""
    for name in ("batch_size", "max_length"):
        if arguments[name] is not None and arguments[name] < 1:
            raise DdfileError(f"{name}={arguments[name]}; it is at least 1.")
    if not 0 <= arguments["threshold"] <= 1:
        raise DdfileError(f"threshold={arguments['threshold']}; it is a probability, from 0 to 1.")
    if arguments["dtype"] not in (None, *DTYPES[1:]):
        raise DdfileError(f"dtype={arguments['dtype']!r} is none of {', '.join(DTYPES[1:])}."
                          f"{did_you_mean(arguments['dtype'], DTYPES[1:])}")
    labels = arguments["labels"] or ()
    twice = next((name for name in labels if list(labels).count(name) > 1), None)
    if twice is not None:
        raise DdfileError(f"labels= names {twice!r} twice; each label has a name of its own.")
    if arguments["revision"] is not None and not isinstance(arguments["model"], ModelName):
        raise DdfileError("revision= is of a model on the Hub, and this one is a folder. Leave it out.")


@step(version="2", columns=_classified, by_row="rows")
def classify(rows: StoredRows, *, model: Model, text: str = "text", pair: str | None = None, column: str = "label",
             labels: Sequence[str] | None = None, probabilities: bool = False, threshold: float = 0.5,
             max_length: int | None = None, revision: str | None = None, dtype: str | None = None,
             batch_size: Free = 32) -> "Batches":
    """Add the label that a sequence classifier gives to each text, or to a text and its `pair`.

    Labels go by the model's names for them, or by `labels`, in the model's order. `probabilities` adds a column of all labels'.
    A model of several labels at once gives a list of those whose probability reaches `threshold`, a model with one output
    its number, and one that was trained on numbers a list of them. A text that is too long is cut, and a null has no label.
    """
    from ddmake.artifacts.rows import Batches, features_of
    from ddmake.backends.classifiers import Asked, classified, load

    asked = Asked(text, pair, column, probabilities, threshold)
    classifier = load(model, asked, labels, dtype, max_length, batch_size)
    features = features_of(rows)
    for name in (column, f"{column}_probabilities"):
        features.pop(name, None)
    return Batches(classified(rows, classifier, asked), features)
