"""REINFORCE with a leave-one-out baseline, on TRL's RLOOTrainer (Ahmadian et al. 2024, arXiv 2402.14740)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trl import RLOOConfig, RLOOTrainer

from ddmake.trainers.common import Progress, lora_config
from ddmake.trainers.grouped import Grouped, Sampling, configured, finish, given, rewarding
from ddmake.trainers.rewards import Question, Task


@dataclass(frozen=True)
class LeaveOneOut(Grouped):
    """What such a training is made of."""

    samples: int = 4


def train(task: Task, held: Sequence[Question] | None, settings: LeaveOneOut, output: Path, checkpoints: Path,
          progress: Progress) -> dict[str, Any]:
    """Learn to answer questions so that rewards rise, and return the metrics.

    Raises DdmakeError for questions and rewards that nothing can be learned from.
    """
    start = given(task, held, settings)
    trainer = Answered(
        model=start.model, processing_class=start.tokenizer, train_dataset=start.rows, reward_funcs=[rewarding(start)],
        args=RLOOConfig(**configured(start, settings, checkpoints), normalize_advantages=False, reward_clip_range=None),
        peft_config=lora_config(settings.peft, "CAUSAL_LM"),
    )
    return finish(trainer, start, settings, output, checkpoints, progress)


class Answered(Sampling, RLOOTrainer):
    """TRL's trainer, by answers that are drawn here."""

    def _generate_single_turn(self, prompt_ids: list[list[int]], *more: Any) -> list[list[int]]:
        return self.answers(prompt_ids)
