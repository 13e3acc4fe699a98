"""Group relative policy optimisation of a causal model, on TRL's GRPOTrainer (Shao et al. 2024, arXiv 2402.03300)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trl import GRPOConfig, GRPOTrainer

from ddmake.trainers.common import Progress, lora_config
from ddmake.trainers.grouped import Grouped, Sampling, configured, finish, given, rewarding
from ddmake.trainers.rewards import Question, Task


@dataclass(frozen=True)
class GroupRelative(Grouped):
    """What such a training is made of."""

    loss: str = "grpo"
    scale: str = "group"


def train(task: Task, held: Sequence[Question] | None, settings: GroupRelative, output: Path, checkpoints: Path,
          progress: Progress) -> dict[str, Any]:
    """Learn to answer questions so that rewards rise, and return the metrics.

    Raises DdmakeError for questions and rewards that nothing can be learned from.
    """
    start = given(task, held, settings)
    trainer = Answered(
        model=start.model, processing_class=start.tokenizer, train_dataset=start.rows, reward_funcs=[rewarding(start)],
        args=GRPOConfig(
            **configured(start, settings, checkpoints), loss_type=settings.loss, scale_rewards=settings.scale, delta=None,
            importance_sampling_level="token", multi_objective_aggregation="sum_then_normalize", top_entropy_quantile=1.0,
            entropy_coef=0.0, use_adaptive_entropy=False, use_bias_correction_kl=False, off_policy_mask_threshold=None,
            cast_lm_head_to_fp32=False,
        ),
        peft_config=lora_config(settings.peft, "CAUSAL_LM"),
    )
    return finish(trainer, start, settings, output, checkpoints, progress)


class Answered(Sampling, GRPOTrainer):
    """TRL's trainer, by answers that are drawn here."""

    def _generate_single_turn(self, prompt_ids: list[list[int]], *more: Any) -> tuple[list[list[int]], None]:
        return self.answers(prompt_ids), None
