"""Recipes that ask a classifier about rows."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ddmake import step
from ddmake.ddfile.inputs import Free, Model, StoredRows
from ddmake.errors import DdfileError, did_you_mean

if TYPE_CHECKING:
    from ddmake.artifacts.rows import Batches


def _classified(inputs: Mapping[str, Any], arguments: Mapping[str, Any]) -> list[str] | None:
    """Tell the columns of `classify`."""
    columns = inputs["rows"]
    for name in filter(None, (arguments["text"], arguments["pair"])):
        if columns is not None and name not in columns:
            raise DdfileError(f"there is no column {name!r} to classify. There are: {', '.join(columns)}."
                              f"{did_you_mean(name, columns)}")
    added = [arguments["column"], *([f"{arguments['column']}_probabilities"] if arguments["probabilities"] else [])]
    return None if columns is None else list(dict.fromkeys([*columns, *added]))


@step(version="1", columns=_classified)
def classify(rows: StoredRows, *, model: Model, text: str = "text", pair: str | None = None, column: str = "label",
             labels: Sequence[str] | None = None, probabilities: bool = False, threshold: float = 0.5,
             max_length: int | None = None, revision: str | None = None, dtype: str | None = None,
             batch_size: Free = 32) -> "Batches":
    """Add the label that a sequence classifier gives to each text, or to a text and its `pair`.

    Labels go by the model's names for them, or by `labels`, in the model's order. `probabilities` adds a column of all labels'.
    A model of several labels at once gives a list of those whose probability reaches `threshold`, and a model with one output
    its number. A text that is too long is cut, and a null has no label.
    """
    from ddmake.artifacts.rows import Batches
    from ddmake.backends.classifiers import Asked, classified, load

    classifier = load(model, labels, dtype, max_length, batch_size)
    asked = Asked(text, pair, column, probabilities, threshold)
    features = getattr(rows.features, "to_dict", rows.features.copy)()
    for name in (column, f"{column}_probabilities"):
        features.pop(name, None)
    return Batches(classified(rows, classifier, asked), features)
