"""Kahneman–Tversky optimisation of a causal model, on TRL's KTOTrainer (Ethayarajh et al. 2024, arXiv 2402.01306)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trl import KTOConfig, KTOTrainer
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

from ddmake.errors import DdmakeError
from ddmake.trainers.common import (
    Progress,
    Settings,
    arguments,
    at_once,
    cut_batch,
    hush,
    load_base,
    load_training_tokenizer,
    lora_config,
    run,
    tokenize,
)
from ddmake.trainers.evaluating import Inputs, Means, Weighed
from ddmake.trainers.preference import Answers, Rows, Watching, reference, still

NAMES = ("prompt_ids", "completion_ids", "label")


@dataclass(frozen=True)
class Unpaired(Settings):
    """What such a training is made of."""

    beta: float = 0.1
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0


def train(rows: Rows, validation: Rows | None, settings: Unpaired, output: Path, checkpoints: Path,
          progress: Progress) -> dict[str, float]:
    """Learn from rows of `prompt`, `completion` and `label`, and return the metrics.

    Raises DdmakeError for rows that can't be learned from, and for a batch that is cut into single examples.
    """
    hush()
    if cut_batch(settings)[0] < 2:
        raise DdmakeError("kto measures how far the model has gone on the examples that are taken at once: at least 2. "
                          "Raise batch_size or micro_batch.")
    tokenizer, model = load_training_tokenizer(settings), still(load_base(settings))
    answers = Encoded(Answers(settings, model, tokenizer))
    shuffled = rows.shuffle(seed=settings.seed)  # once: TRL goes through the rows in their order
    given, folder = (NAMES, NAMES[1:2], answers.answers.made_of()), checkpoints / "tokens"
    examples, counts = tokenize(shuffled, answers, folder / "train.arrow", *given)
    held = tokenize(validation, answers, folder / "validation.arrow", *given)[0] if validation else None
    config = arguments(settings, model, len(examples), held is not None, checkpoints)
    config["per_device_eval_batch_size"] = settings.micro_batch or at_once(settings.batch_size)  # in however many processes
    trainer = Preferring(
        model=model, ref_model=reference(settings), processing_class=tokenizer, train_dataset=examples, eval_dataset=held,
        data_collator=Neighbours(pad_token_id=tokenizer.pad_token_id),
        args=KTOConfig(
            **config, beta=settings.beta, loss_type="kto", desirable_weight=settings.desirable_weight,
            undesirable_weight=settings.undesirable_weight, train_sampling_strategy="sequential",
            precompute_ref_log_probs=False, max_length=None, disable_dropout=False, sync_ref_model=False,
        ),
        peft_config=lora_config(settings.peft, "CAUSAL_LM"),
    )
    wanted = sum(examples["label"])
    tokens = sum(map(len, examples["prompt_ids"])) + sum(map(len, examples["completion_ids"]))
    return run(trainer, settings, output, checkpoints, progress,
               {"tokens": int(tokens * settings.epochs), "desirable": wanted, "undesirable": len(examples) - wanted, **counts},
               shown=validation or rows)


class Encoded:
    """Turns a row into the tokens of its prompt and of its answer."""

    def __init__(self, answers: Answers):
        self.answers = answers

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the tokens, whether the answer was wanted, and whether it was cut."""
        prompt, answer, cut = self.answers.of(row, "completion")
        return {"prompt_ids": prompt, "completion_ids": answer, "label": row["label"], "cut": cut}


class Neighbours(DataCollatorForUnpairedPreference):
    """Gives each prompt its neighbour's answer too, by which KTO measures how far the model has gone.

    TRL would do so as it prepares rows, which are tokens here before it sees them.
    """

    def torch_call(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return a batch."""
        return super().torch_call([{**example, "KL_completion_ids": examples[place - 1]["completion_ids"]}
                                   for place, example in enumerate(examples)])


class Preferring(Watching, KTOTrainer):
    """TRL's trainer, on rows that are tokens."""

    def weighed(self, inputs: Inputs, means: Means) -> Weighed:
        """Return the means of a batch; rewards are those of wanted and of unwanted answers, of which it may have none."""
        wanted = int(inputs["label"].sum())
        told = super().weighed(inputs, {name: value for name, value in means.items() if "/" not in name})
        counts = {"rewards/chosen": wanted, "rewards/rejected": len(inputs["label"]) - wanted}
        return told | {name: (means.get(name, 0.0), count) for name, count in counts.items()}

    def concluded(self, means: dict[str, float]) -> dict[str, float]:
        """Return what is told of all examples, and add by how much wanted answers have the higher rewards."""
        sides = [means[name] for name in ("rewards/chosen", "rewards/rejected") if name in means]
        return means | ({"rewards/margins": sides[0] - sides[1]} if len(sides) == 2 else {})
