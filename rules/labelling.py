"""Training of models that give texts labels."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ddmake import train
from ddmake.ddfile.inputs import Free, Model, Parts, Progress
from ddmake.ddfile.specs import Lora
from ddmake.errors import DdfileError, DdmakeError, did_you_mean
from ddmake.rules.columns import need as need_column
from ddmake.rules.learning import (
    Arguments,
    Count,
    Inputs,
    OnChange,
    Trackers,
    TrainParts,
    Whether,
    check,
    columns_of,
    named_parts,
    need_packages,
    settings,
)

if TYPE_CHECKING:
    from datasets import Dataset

RATES = (2e-5, 2e-4)  # of all weights, as Devlin et al. for BERT; with an adapter ten times as much
BALANCED = "balanced"


def _labelled(inputs: Inputs, arguments: Arguments) -> None:
    """Check the columns that are learned from, and what is said of labels."""
    check(inputs, arguments)
    there = columns_of(inputs["parts"])
    for name in filter(None, (arguments["text"], arguments.get("pair"), arguments["label"])):
        need_column(there, name, "to learn from")
    _check_labels(arguments["labels"], arguments.get("class_weights"))


def _check_labels(labels: Sequence[str] | None, weights: str | Mapping[str, float] | None) -> None:
    if labels is not None:
        twice = next((name for name in labels if list(labels).count(name) > 1), None)
        if twice is not None:
            raise DdfileError(f"labels= names {twice!r} twice; each label has a name of its own.")
        if len(labels) < 2:
            raise DdfileError(f"labels= names {len(labels)}; a classifier tells at least 2 apart.")
    if isinstance(weights, str) and weights != BALANCED:
        raise DdfileError(f"class_weights={weights!r}: it is {BALANCED!r}, or a dict of weights by label.")
    for name, weight in weights.items() if isinstance(weights, Mapping) else ():
        if labels is not None and name not in labels:
            raise DdfileError(f"class_weights= names {name!r}, which labels= lacks.{did_you_mean(name, labels)}")
        if weight <= 0:
            raise DdfileError(f"class_weights= has {weight} of {name!r}; it is above 0.")


@train(version="2", columns=_labelled)
def train_classifier(parts: TrainParts, *, base: Model, peft: Lora | None = None, text: str = "text", pair: str | None = None,
                     label: str = "label", labels: Sequence[str] | None = None,
                     class_weights: str | Mapping[str, float] | None = None, epochs: float = 3.0, batch_size: int = 16,
                     micro_batch: Annotated[int | None, Free] = None, learning_rate: float | None = None, warmup: float = 0.1,
                     schedule: str = "linear", weight_decay: float = 0.0, max_grad_norm: float = 1.0, max_length: int = 512,
                     dtype: str | None = None, revision: str | None = None, seed: int = 0, best: bool = False,
                     patience: int | None = None, evaluate_every: int | None = None, deterministic: bool = False,
                     gradient_checkpointing: Whether = None, trackers: Trackers = (), processes: Count = None,
                     on_change: OnChange = "mark", output: Path, checkpoints: Path, progress: Progress) -> None:
    """Train a model that gives each text, or a text and its `pair`, its label.

    A sequence classifier on the body of an encoder such as BERT (Devlin et al. 2019, arXiv 1810.04805) or of a causal model,
    by transformers' Trainer. A label is a text, a whole number, or true or false; where the column holds lists, any of their
    labels may hold of a text. `labels` names them all, in the model's order; unless given, they are those of the training
    rows, sorted. `class_weights` are what rows count by their label: "balanced" has all labels count alike. With `peft=lora(…)`
    an adapter and the head are learned beside the base (Hu et al. 2021, arXiv 2106.09685). A validation set only draws a
    curve, unless the best weights are kept by it.
    """
    arguments = locals()
    need_packages("train_classifier", peft)
    from ddmake.trainers import classes as trainer
    from ddmake.trainers.launch import launch

    shown = Shown("train_classifier", text, pair, label, labels)
    examples, validation = shown.parts(parts)
    weights = weights_of(class_weights, examples, shown.known)
    made_of = settings(trainer.Labelled, arguments, RATES, labels=shown.known.names, several=shown.known.several, weights=weights)
    launch(trainer.train, examples, validation, made_of, output, checkpoints, progress)


def _few(inputs: Inputs, arguments: Arguments) -> None:
    """Check `few_shot_classifier`."""
    _labelled(inputs, arguments)
    if arguments["rounds"] < 1:
        raise DdfileError(f"rounds={arguments['rounds']}; it is at least 1.")


@train(version="1", columns=_few)
def few_shot_classifier(parts: Annotated[Any, Parts("train", observed=("validation",))], *, base: Model, text: str = "text",
                        label: str = "label", labels: Sequence[str] | None = None, rounds: int = 20, epochs: float = 1.0,
                        batch_size: int = 16, micro_batch: Annotated[int | None, Free] = None,
                        learning_rate: float | None = None, warmup: float = 0.1, schedule: str = "linear",
                        weight_decay: float = 0.0, max_grad_norm: float = 1.0, max_length: int | None = None,
                        dtype: str | None = None, revision: str | None = None, seed: int = 0, deterministic: bool = False,
                        gradient_checkpointing: Whether = None, trackers: Trackers = (), processes: Count = None,
                        on_change: OnChange = "mark", output: Path, checkpoints: Path, progress: Progress) -> None:
    """Train a classifier from a few examples of each label, eight or so.

    As SetFit does (Tunstall et al. 2022, arXiv 2209.11055): the base, a model of sentence-transformers, learns from pairs of
    examples which of them have a label in common; then logistic regression learns which label a vector has. `rounds` pairs of
    each kind are drawn for each example. A label is a text, a whole number, or true or false; where the column holds lists, any
    of their labels may hold of a text. `labels` names them all, in the model's order; unless given, they are those of the
    training rows, sorted. A validation set is only measured on.
    """
    arguments = locals() | {"peft": None}
    need_packages("few_shot_classifier", None, "sentence_transformers")
    from ddmake.trainers import fewshot as trainer
    from ddmake.trainers.launch import launch

    shown = Shown("few_shot_classifier", text, None, label, labels)
    examples, validation = shown.parts(parts)
    made_of = settings(trainer.Few, arguments, RATES, labels=shown.known.names, several=shown.known.several)
    launch(trainer.train, examples, validation, made_of, output, checkpoints, progress)


@dataclass(frozen=True)
class Labels:
    """The labels of a classifier by name, in their order, and whether several may hold of one text."""

    names: tuple[str, ...]
    several: bool


class Shown:
    """What a trainer is shown of rows: texts, perhaps pairs of them, and their labels by number."""

    known: Labels

    def __init__(self, recipe: str, text: str, pair: str | None, label: str, labels: Sequence[str] | None):
        self.recipe, self.label, self.stated = recipe, label, labels
        self.texts = {"text": text} if pair is None else {"text": text, "pair": pair}

    def parts(self, parts: Any) -> "tuple[Dataset, Dataset | None]":
        """Return training and validation examples, the latter None where there are none; the labels are known from then on.

        Rows with a null are left out with a printed line, and so are validation's with a label that training lacks. Raises
        DdmakeError for rows that can't be learned from.
        """
        named = named_parts(parts)
        whole = {part: self._whole(rows, part) for part, rows in named.items()}
        self.known = self._known(named["train"], whole["train"])
        if "validation" in whole:
            whole["validation"] = self._familiar(whole["validation"])
        shown = {part: self._examples(rows) for part, rows in whole.items()}
        return shown["train"], shown.get("validation")

    def _whole(self, rows: "Dataset", part: str) -> list[dict[str, Any]]:
        """Return the rows without nulls, their labels by name."""
        needed = [*self.texts.values(), self.label]
        for name in needed:
            need_column(rows.column_names, name, "to learn from")
        name_of = naming(rows.features[self.label], self.recipe, self.label)
        found = [row for row in rows.select_columns(needed) if all(row[name] is not None for name in needed)]
        self._leave_out(len(rows) - len(found), len(rows), part, f"null in {', '.join(needed)}")
        if not found:
            raise DdmakeError(f"{self.recipe}: no row to learn from in {part}; {len(rows)} given.")
        return [row | {self.label: name_of(row[self.label])} for row in found]

    def _leave_out(self, some: int, rows: int, part: str, why: str) -> None:
        if some:
            print(f"{self.recipe}: {some} of {rows} rows of {part} left out: {why}", flush=True)

    def _known(self, rows: "Dataset", whole: Sequence[Mapping[str, Any]]) -> Labels:
        """Return the labels as stated, else as the column's type names them, else those of the rows, sorted."""
        several = isinstance(whole[0][self.label], list)
        found = {name for row in whole for name in names_in(row[self.label])}
        names = self.stated or named_by(rows.features[self.label]) or ordered(found)
        odd = next((name for name in ordered(found) if name not in names), None)
        if odd is not None:
            raise DdmakeError(f"{self.recipe}: column {self.label!r} holds {odd!r}, which labels= lacks: {', '.join(names)}."
                              f"{did_you_mean(odd, names)}")
        if len(found) < 2 and not (several and found):
            raise DdmakeError(f"{self.recipe}: the training rows have {', '.join(found) or 'none'} for a label; a classifier "
                              "tells at least 2 apart.")
        return Labels(tuple(names), several)

    def _familiar(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        found = [row for row in rows if names_in(row[self.label]) <= set(self.known.names)]
        strange = ordered({name for row in rows for name in names_in(row[self.label])} - set(self.known.names))
        self._leave_out(len(rows) - len(found), len(rows), "validation", f"no training row has the label {', '.join(strange)}")
        if not found:
            raise DdmakeError(f"{self.recipe}: no row of validation has a label that training has. "
                              f"Split with stratify={self.label!r}.")
        return found

    def _examples(self, rows: Sequence[Mapping[str, Any]]) -> "Dataset":
        from datasets import Dataset

        places = {name: place for place, name in enumerate(self.known.names)}
        columns: dict[str, list[Any]] = {name: [self._text(row, column) for row in rows] for name, column in self.texts.items()}
        if self.known.several:
            columns["labels"] = [[float(name in row[self.label]) for name in places] for row in rows]
        else:
            columns["labels"] = [places[row[self.label]] for row in rows]
        return Dataset.from_dict(columns)

    def _text(self, row: Mapping[str, Any], column: str) -> str:
        if not isinstance(row[column], (str, int, float, bool)):
            raise DdmakeError(f"{self.recipe}: column {column!r} holds {type(row[column]).__name__}; text is needed. "
                              "Make it by .map().")
        return str(row[column])


def names_in(label: str | list[str]) -> set[str]:
    """Return the names of a row's label or labels."""
    return set(label) if isinstance(label, list) else {label}


def ordered(names: set[str]) -> list[str]:
    """Return labels' names in their order: numbers by size, all else by the alphabet."""
    whole = all(name.removeprefix("-").isdecimal() for name in names)
    return sorted(names, key=int) if whole else sorted(names)


def named_by(feature: Any) -> Sequence[str] | None:
    """Return the names that a column's type has for the numbers in it; None for any other column."""
    return getattr(getattr(feature, "feature", feature), "names", None)


def naming(feature: Any, recipe: str, column: str) -> Callable[[Any], str | list[str]]:
    """Return what turns a value of a column into a label's name, or a list of them."""
    names = named_by(feature)

    def name_of(value: Any) -> str | list[str]:
        if isinstance(value, list):
            return [name_of(one) for one in value]
        if not isinstance(value, (str, int)) or names and not 0 <= value < len(names):
            raise DdmakeError(f"{recipe}: column {column!r} holds {value!r}; a label is a text, a whole number, true or false, "
                              "or a list of such.")
        return names[value] if names else str(value).lower() if isinstance(value, bool) else str(value)

    return name_of


def weights_of(stated: str | Mapping[str, float] | None, examples: "Dataset", known: Labels) -> tuple[float, ...]:
    """Return what labels weigh, in their order; nothing where all rows count alike.

    Balanced, a label weighs the more the rarer it is; of several that may hold, what a row with it counts to those without.
    Raises DdmakeError for a weight of no label.
    """
    if stated is None:
        return ()
    if isinstance(stated, Mapping):
        odd = next((name for name in stated if name not in known.names), None)
        if odd is not None:
            raise DdmakeError(f"class_weights= names {odd!r}, which no training row has.{did_you_mean(odd, known.names)}")
        return tuple(float(stated.get(name, 1.0)) for name in known.names)
    rows, places = len(examples), range(len(known.names))
    if known.several:
        held = [sum(row[place] for row in examples["labels"]) for place in places]
        return tuple((rows - count) / count if 0 < count < rows else 1.0 for count in held)
    counts = Counter(examples["labels"])
    return tuple(rows / (len(counts) * counts[place]) if counts[place] else 1.0 for place in places)
