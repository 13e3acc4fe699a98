"""Direct preference optimisation of a causal model, on TRL's DPOTrainer (Rafailov et al. 2023, arXiv 2305.18290)."""

from dataclasses import dataclass
from pathlib import Path

from trl import DPOConfig, DPOTrainer

from ddmake.trainers.common import (
    Progress,
    Settings,
    arguments,
    hush,
    load_base,
    load_training_tokenizer,
    lora_config,
    run,
)
from ddmake.trainers.preference import Answers, Rows, Watching, paired, reference, still


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
    """TRL's trainer, on rows that are tokens."""
