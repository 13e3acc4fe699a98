"""Direct preference optimisation of a causal model, on TRL's DPOTrainer (Rafailov et al. 2023, arXiv 2305.18290)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trl import DPOConfig, DPOTrainer

from ddmake.trainers.common import (
    Progress,
    Settings,
    arguments,
    at_once,
    hush,
    load_base,
    load_training_tokenizer,
    lora_config,
    run,
)
from ddmake.trainers.evaluating import Inputs, Means, Weighed
from ddmake.trainers.preference import Answers, Rows, Watching, paired, reference, still

SORTING = {"aot", "aot_unpaired"}  # losses of what is taken at once


@dataclass(frozen=True)
class Direct(Settings):
    """What such a training is made of: several losses are summed by their weights."""

    beta: float = 0.1
    losses: tuple[str, ...] = ("sigmoid",)
    weights: tuple[float, ...] = (1.0,)
    label_smoothing: float = 0.0


def train(rows: Rows, validation: Rows | None, settings: Direct, output: Path, checkpoints: Path,
          progress: Progress) -> dict[str, float]:
    """Learn from rows of `prompt`, `chosen` and `rejected`, and return the metrics.

    Raises DdmakeError for rows that can't be learned from.
    """
    hush()
    tokenizer, model = load_training_tokenizer(settings), still(load_base(settings))
    examples, held, notes = paired(rows, validation, Answers(settings, model, tokenizer), checkpoints)
    config = arguments(settings, model, len(examples), held is not None, checkpoints)
    if not SORTING.isdisjoint(settings.losses):
        config["per_device_eval_batch_size"] = at_once(settings.batch_size)  # in however many processes
    trainer = Preferring(
        model=model, ref_model=reference(settings), processing_class=tokenizer, train_dataset=examples, eval_dataset=held,
        args=DPOConfig(
            **config, beta=settings.beta, loss_type=list(settings.losses), loss_weights=list(settings.weights),
            label_smoothing=settings.label_smoothing, discopop_tau=0.05, f_divergence_type="reverse_kl", ld_alpha=None,
            use_weighting=False, sync_ref_model=False, precompute_ref_log_probs=False, padding_free=False,
            max_length=None, disable_dropout=False,  # rows are cut already, and the base's dropout is off
        ),
        peft_config=lora_config(settings.peft, "CAUSAL_LM"),
    )
    return run(trainer, settings, output, checkpoints, progress, notes | {"tokens": int(notes["tokens"] * settings.epochs)},
               shown=validation or rows)


class Preferring(Watching, DPOTrainer):
    """TRL's trainer, on rows that are tokens.

    Of its losses "sft" is a mean of tokens, the others are of pairs, so that it is evaluated apart from them.
    """

    def weighed(self, inputs: Inputs, means: Means) -> Weighed:
        """Return the means of a batch of pairs, with their chosen answers' lengths in place of the loss on these."""
        if "sft" in self.loss_types:
            means["tokens"] = inputs["completion_mask"][:, 1:].chunk(2)[0].sum(1).double().mean()
            means["loss"] = means["loss"] - self._sft(means)
        return super().weighed(inputs, means)

    def concluded(self, means: dict[str, float]) -> dict[str, float]:
        """Return what is told of all pairs, and add the loss on chosen answers."""
        if "sft" in self.loss_types:
            means["loss"] += self._sft(means)
        return means

    def _sft(self, means: Mapping[str, Any]) -> Any:
        """Return the share that the loss on chosen answers has, given means over pairs."""
        return -self.loss_weights[self.loss_types.index("sft")] * means["logps/chosen"] / means["tokens"]
