"""Training on preferences: models that answer as is preferred, and models that score answers."""

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

from ddmake import train
from ddmake.ddfile.inputs import Free, Model, Progress, Prompt
from ddmake.ddfile.specs import Lora
from ddmake.errors import DdfileError, DdmakeError, did_you_mean
from ddmake.rules.columns import need as need_column
from ddmake.rules.learning import (
    Arguments,
    Bits,
    Count,
    Flag,
    Inputs,
    OnChange,
    Trackers,
    TrainParts,
    Whether,
    check,
    columns_of,
    named_parts,
    need_causal,
    need_packages,
    settings,
    text,
)

RATES = {  # (all weights, with an adapter): the learning rate unless one is given; an adapter wants about ten times as much
    "dpo": (1e-6, 1e-5),  # TRL's
    "kto": (1e-6, 1e-5),  # TRL's
    "orpo": (8e-6, 8e-5),  # as Hong et al.
    "reward_model": (1e-5, 1e-4),  # about that of Ouyang et al.
}
SORTING = ("aot", "aot_unpaired")  # losses that compare the pairs which are taken at once
SMOOTHED = ("robust", "exo_pair", *SORTING)  # losses that label_smoothing says something to
LOSSES = ("sigmoid", "hinge", "ipo", "nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down", "discopop", "sft",
          "sigmoid_norm", *SMOOTHED)

Row = Mapping[str, Any]


def _compared(inputs: Inputs, arguments: Arguments) -> None:
    """Check the columns of rows with a chosen and a rejected answer, and what is said of the training."""
    check(inputs, arguments)
    _learned(inputs, arguments, [arguments["chosen"], arguments["rejected"]])


def _direct(inputs: Inputs, arguments: Arguments) -> None:
    """Check `dpo`: its columns, and its losses."""
    _compared(inputs, arguments)
    smoothing, losses = arguments["label_smoothing"], list(_weighted(arguments["loss"]))
    unknown = next((name for name in losses if name not in LOSSES), None)
    if unknown is not None or not losses:
        raise DdfileError(f"loss={arguments['loss']!r}: there is no loss {unknown!r}. There are: {', '.join(sorted(LOSSES))}."
                          f"{did_you_mean(str(unknown), LOSSES)}")
    if smoothing and not set(losses) & set(SMOOTHED):
        raise DdfileError(f"label_smoothing={smoothing} says nothing to {' and '.join(losses)}; it is of {', '.join(SMOOTHED)}.")
    if not 0 <= smoothing < 0.5 or not smoothing and "exo_pair" in losses:
        least = "above 0" if "exo_pair" in losses else "at least 0"
        raise DdfileError(f"label_smoothing={smoothing}; it is {least} and below 0.5.")
    if arguments["micro_batch"] is not None and set(losses) & set(SORTING):
        raise DdfileError("micro_batch= would change the model, since this loss sorts the pairs that are taken at once. "
                          "Leave it out.")


def _scored(inputs: Inputs, arguments: Arguments) -> None:
    """Check `reward_model`."""
    _compared(inputs, arguments)
    if arguments["margin"] is not None:
        need_column(columns_of(inputs["parts"]), arguments["margin"], "of margins")
    if arguments["center"] < 0:
        raise DdfileError(f"center={arguments['center']}; it is at least 0.")


def _judged(inputs: Inputs, arguments: Arguments) -> None:
    """Check `kto`."""
    check(inputs, arguments)
    pair = [arguments["chosen"], arguments["rejected"]]
    if pair.count(None) == 1:
        raise DdfileError("kto takes chosen= and rejected= together, or neither.")
    _learned(inputs, arguments, [arguments["completion"], arguments["label"]] if None in pair else pair)
    for name in ("desirable_weight", "undesirable_weight"):
        if arguments[name] < 0:
            raise DdfileError(f"{name}={arguments[name]}; it is at least 0.")


def _learned(inputs: Inputs, arguments: Arguments, columns: Sequence[str]) -> None:
    """Raise DdfileError where a column that is learned from isn't among those that are known."""
    there, prompt = columns_of(inputs["parts"]), arguments["prompt"]
    if prompt is not None:
        prompt.need(there)
    for name in [*([] if prompt else ["prompt"]), *columns]:
        need_column(there, name, "to learn from")


def _weighted(loss: str | Mapping[str, float]) -> Mapping[str, float]:
    return {loss: 1.0} if isinstance(loss, str) else loss


@train(version="3", columns=_direct)
def dpo(parts: TrainParts, *, base: Model, peft: Lora | None = None, prompt: Prompt | None = None,
        chosen: str = "chosen", rejected: str = "rejected", beta: float = 0.1,
        loss: str | Mapping[str, float] = "sigmoid", label_smoothing: float = 0.0, epochs: float = 1.0, batch_size: int = 32,
        micro_batch: Annotated[int | None, Free] = None, learning_rate: float | None = None, warmup: float = 0.1,
        schedule: str = "linear", weight_decay: float = 0.0, max_grad_norm: float = 1.0, max_length: int = 1024,
        dtype: str | None = None, revision: str | None = None, separator: str = "\n", seed: int = 0,
        quantize: Bits | None = None, best: bool = False, patience: int | None = None, evaluate_every: int | None = None,
        deterministic: bool = False, gradient_checkpointing: Whether = None, trackers: Trackers = (),
        processes: Count = None, sharded: Flag = False, on_change: OnChange = "mark",
        output: Path, checkpoints: Path, progress: Progress) -> None:
    """Teach a language model to prefer each row's chosen answer to its rejected one.

    Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290) by TRL's DPOTrainer: the model learns to raise the
    chosen answer's probability over the rejected one's, measured from a reference, which is the base. A greater `beta` keeps
    it nearer to that. `loss` is one of TRL's by name, or a dict of several with their weights. With `peft=lora(…)` the base
    is left as it is, and an adapter is learned beside it (Hu et al. 2021, arXiv 2106.09685). A validation set only draws a
    curve, unless the best weights are kept by it.
    """
    arguments = locals()
    need_packages("dpo", peft, "trl")
    need_causal("dpo", base, revision)
    from ddmake.trainers import dpo as trainer
    from ddmake.trainers.launch import launch

    losses = _weighted(loss)
    made_of = settings(trainer.Direct, arguments, RATES["dpo"], losses=tuple(losses), weights=tuple(losses.values()))
    shown = Shown("dpo", prompt, {"chosen": chosen, "rejected": rejected})
    launch(trainer.train, *shown.parts(parts), made_of, output, checkpoints, progress)


@train(version="3", columns=_judged)
def kto(parts: TrainParts, *, base: Model, peft: Lora | None = None, prompt: Prompt | None = None,
        completion: str = "completion", label: str = "label", chosen: str | None = None,
        rejected: str | None = None, beta: float = 0.1, desirable_weight: float = 1.0, undesirable_weight: float = 1.0,
        epochs: float = 1.0, batch_size: int = 32, micro_batch: int | None = None, learning_rate: float | None = None,
        warmup: float = 0.1, schedule: str = "linear", weight_decay: float = 0.0, max_grad_norm: float = 1.0,
        max_length: int = 1024, dtype: str | None = None, revision: str | None = None, separator: str = "\n", seed: int = 0,
        quantize: Bits | None = None, best: bool = False, patience: int | None = None, evaluate_every: int | None = None,
        deterministic: bool = False, gradient_checkpointing: Whether = None, trackers: Trackers = (),
        processes: Count = None, sharded: Flag = False, on_change: OnChange = "mark",
        output: Path, checkpoints: Path, progress: Progress) -> None:
    """Teach a language model by single answers, each of which was wanted or not.

    Kahneman–Tversky optimisation (Ethayarajh et al. 2024, arXiv 2402.01306) by TRL's KTOTrainer: a row has a `completion` and
    a `label`, true or false. With `chosen` and `rejected` each row is a pair, of which the one is wanted and the other not. A
    greater `beta` keeps the model nearer to the base, its reference. `desirable_weight` and `undesirable_weight` even out how
    many there are of each kind. With `peft=lora(…)` an adapter is learned beside the base (Hu et al. 2021, arXiv 2106.09685).
    A validation set only draws a curve, unless the best weights are kept by it.
    """
    arguments = locals()
    need_packages("kto", peft, "trl")
    need_causal("kto", base, revision)
    from ddmake.trainers import kto as trainer
    from ddmake.trainers.launch import launch

    made_of = settings(trainer.Unpaired, arguments, RATES["kto"])
    columns = {"chosen": chosen, "rejected": rejected} if chosen else {"completion": completion}
    shown = Shown("kto", prompt, columns, label=None if chosen else label)
    launch(trainer.train, *shown.parts(parts), made_of, output, checkpoints, progress)


@train(version="3", columns=_compared)
def orpo(parts: TrainParts, *, base: Model, peft: Lora | None = None, prompt: Prompt | None = None,
         chosen: str = "chosen", rejected: str = "rejected", beta: float = 0.1,
         epochs: float = 3.0, batch_size: int = 32, micro_batch: Annotated[int | None, Free] = None,
         learning_rate: float | None = None, warmup: float = 0.1, schedule: str = "linear", weight_decay: float = 0.0,
         max_grad_norm: float = 1.0, max_length: int = 1024, dtype: str | None = None, revision: str | None = None,
         separator: str = "\n", seed: int = 0, quantize: Bits | None = None, best: bool = False, patience: int | None = None,
         evaluate_every: int | None = None, deterministic: bool = False, gradient_checkpointing: Whether = None,
         trackers: Trackers = (), processes: Count = None, sharded: Flag = False, on_change: OnChange = "mark",
         output: Path, checkpoints: Path, progress: Progress) -> None:
    """Fine-tune a language model on chosen answers, and away from rejected ones, at once.

    Odds ratio preference optimisation (Hong et al. 2024, arXiv 2403.07691): to the loss of the chosen answer that of the
    odds between both is added, times `beta`. There is no reference, so that a base needs no fine-tuning before. With
    `peft=lora(…)` an adapter is learned beside the base (Hu et al. 2021, arXiv 2106.09685). A validation set only draws a
    curve, unless the best weights are kept by it.
    """
    arguments = locals()
    need_packages("orpo", peft, "trl")
    need_causal("orpo", base, revision)
    from ddmake.trainers import orpo as trainer
    from ddmake.trainers.launch import launch

    made_of = settings(trainer.OddsRatio, arguments, RATES["orpo"])
    shown = Shown("orpo", prompt, {"chosen": chosen, "rejected": rejected})
    launch(trainer.train, *shown.parts(parts), made_of, output, checkpoints, progress)


@train(version="3", columns=_scored)
def reward_model(parts: TrainParts, *, base: Model, peft: Lora | None = None, prompt: Prompt | None = None,
                 chosen: str = "chosen", rejected: str = "rejected", margin: str | None = None,
                 center: float = 0.0, epochs: float = 1.0, batch_size: int = 32,
                 micro_batch: Annotated[int | None, Free] = None, learning_rate: float | None = None, warmup: float = 0.1,
                 schedule: str = "linear", weight_decay: float = 0.0, max_grad_norm: float = 1.0, max_length: int = 1024,
                 dtype: str | None = None, revision: str | None = None, separator: str = "\n", seed: int = 0,
                 quantize: Bits | None = None, best: bool = False, patience: int | None = None,
                 evaluate_every: int | None = None, deterministic: bool = False, gradient_checkpointing: Whether = None,
                 trackers: Trackers = (), processes: Count = None, sharded: Flag = False, on_change: OnChange = "mark",
                 output: Path, checkpoints: Path, progress: Progress) -> None:
    """Train a model that scores answers: higher for each row's chosen answer than for its rejected one.

    A sequence classifier with one output on a causal model's body, which learns by the odds of the choice (Bradley and Terry
    1952; Ouyang et al. 2022, arXiv 2203.02155) by TRL's RewardTrainer. `margin` names a column of numbers by which the two
    rewards are to differ (Touvron et al. 2023, arXiv 2307.09288), `center` weighs what pulls the mean reward to zero
    (Eisenstein et al. 2023, arXiv 2312.09244). With `peft=lora(…)` an adapter and the head are learned beside the base (Hu et
    al. 2021, arXiv 2106.09685). A validation set only draws a curve, unless the best weights are kept by it.
    """
    arguments = locals()
    need_packages("reward_model", peft, "trl")
    need_causal("reward_model", base, revision)
    from ddmake.trainers import reward as trainer
    from ddmake.trainers.launch import launch

    made_of = settings(trainer.Rewarding, arguments, RATES["reward_model"])
    shown = Shown("reward_model", prompt, {"chosen": chosen, "rejected": rejected}, margin=margin)
    launch(trainer.train, *shown.parts(parts), made_of, output, checkpoints, progress)


class Shown:
    """What a trainer is shown of rows: a prompt of messages, and texts; of unpaired ones a label, of some pairs a margin."""

    def __init__(self, recipe: str, prompt: Any, texts: Mapping[str, str], label: str | None = None, margin: str | None = None):
        self.recipe, self.prompt, self.texts, self.label, self.margin = recipe, prompt, texts, label, margin
        others = [name for name in (label, margin) if name is not None]
        self.needed = [*([] if prompt else ["prompt"]), *texts.values(), *others]

    def parts(self, parts: Any) -> tuple[Any, Any]:
        """Return training and validation examples, the latter None where there are none.

        Rows with a null, as a failed answer leaves one, are left out with a printed line. Raises DdmakeError for rows that
        can't be learned from.
        """
        found = {part: self._examples(rows, part) for part, rows in named_parts(parts).items()}
        return found["train"], found.get("validation")

    def _examples(self, rows: Any, part: str) -> Any:
        from datasets import Dataset

        for name in self.needed:
            if name not in rows.column_names:
                raise DdmakeError(f"{self.recipe}: there is no column {name!r}. Columns: {', '.join(rows.column_names)}."
                                  f"{did_you_mean(name, rows.column_names)}")
        whole = [(number, row) for number, row in enumerate(rows) if all(row[name] is not None for name in self.needed)]
        if len(whole) < len(rows):
            print(f"{self.recipe}: {len(rows) - len(whole)} of {len(rows)} rows of {part} left out: "
                  f"null in {', '.join(self.needed)}", flush=True)
        if not whole:
            raise DdmakeError(f"{self.recipe}: no row to learn from in {part}; {len(rows)} given.")
        found = [example for number, row in whole for example in self._of(row, f"{self.recipe}: row {number}:")]
        self._compare(whole, part)
        return Dataset.from_list(found)

    def _compare(self, whole: Sequence[tuple[int, Row]], part: str) -> None:
        """Tell of rows that prefer nothing. Raises DdmakeError where the two answers are equal in all of them."""
        if self.label:
            labels = {bool(row[self.label]) for _, row in whole}
            if len(labels) == 1:
                print(f"kto: no answer of {part} is {'un' if True in labels else ''}desirable, and it learns by both", flush=True)
            return
        chosen, rejected = self.texts["chosen"], self.texts["rejected"]
        equal = sum(str(row[chosen]) == str(row[rejected]) for _, row in whole)
        if equal == len(whole):
            raise DdmakeError(f"{self.recipe}: {chosen!r} and {rejected!r} are equal in all {equal} rows of {part}. Give answers "
                              "that differ.")
        if equal:
            print(f"{self.recipe}: {chosen!r} and {rejected!r} are equal in {equal} of {len(whole)} rows of {part}, which prefer "
                  "nothing", flush=True)

    def _of(self, row: Row, where: str) -> Iterator[dict[str, Any]]:
        """Yield what is shown of a row: a pair, or answers one by one."""
        turns = self.prompt.messages(**row) if self.prompt else ({"role": "user", "content": _text(row, "prompt", where)},)
        shown = {"prompt": [dict(turn) for turn in turns]}
        texts = {name: _text(row, column, where) for name, column in self.texts.items()}
        if self.recipe != "kto":
            yield shown | texts | ({"margin": _number(row, self.margin, where)} if self.margin else {})
        elif self.label:
            yield shown | texts | {"label": _verdict(row, self.label, where)}
        else:
            yield from (shown | {"completion": text, "label": name == "chosen"} for name, text in texts.items())


def _text(row: Row, column: str, where: str) -> str:
    return text(row[column], f"{where} column {column!r}")


def _verdict(row: Row, column: str, where: str) -> bool:
    if row[column] not in (0, 1):
        raise DdmakeError(f"{where} column {column!r} holds {row[column]!r}; true or false is needed.")
    return bool(row[column])


def _number(row: Row, column: str, where: str) -> float:
    if isinstance(row[column], bool) or not isinstance(row[column], (int, float)) or not isfinite(row[column]):
        raise DdmakeError(f"{where} column {column!r} holds {row[column]!r}; a number is needed.")
    return float(row[column])
