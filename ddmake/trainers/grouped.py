"""What RLOO and GRPO share: TRL's trainers, with our prompts, our sampling and our rewards.

The prompts of all epochs are laid out in one row beforehand, each epoch in an order of its own, so that a killed training goes
on where it was and no prompt is left over where an epoch ends. Answers are drawn by numbers that the step, and their place in
it, give: how they are cut up over processes and into micro-batches doesn't matter.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate import PartialState
from transformers import TrainerCallback
from trl.trainer.utils import add_fused_lm_head

from ddmake.backends.models import prompt_ids
from ddmake.trainers.common import (
    Progress,
    Watching,
    arguments,
    cut_batch,
    hush,
    load_base,
    load_training_tokenizer,
    run,
    told,
)
from ddmake.trainers.online import (
    MOST,
    OF,
    Answering,
    Online,
    Prompts,
    curves,
    encoded,
    numbers,
    order,
    rewards_of,
    seed_of,
    stops_of,
    write_samples,
)
from ddmake.trainers.preference import reference, still
from ddmake.trainers.rewards import Question, Task

LOGGED = {"reward": "reward", "kl": "kl", "entropy": "entropy", "completions/mean_length": "length",
          "completions/clipped_ratio": "cut", "eval_reward": "eval_reward"}  # what is logged, and its name in the metrics


@dataclass(frozen=True)
class Grouped(Online):
    """What such a training is made of. A step takes `batch_size` answers, `samples` to a prompt."""

    samples: int = 8
    passes: int = 1
    clip: float = 0.2


@dataclass(frozen=True)
class Given:
    """What a training starts from."""

    model: torch.nn.Module
    tokenizer: Any
    prompts: Prompts
    held: Prompts | None
    answering: Answering
    rows: datasets.Dataset


def given(task: Task, held: Sequence[Question] | None, settings: Grouped) -> Given:
    """Load what a training starts from. Raises DdmakeError for questions and rewards that nothing can be learned from."""
    hush()
    if torch.cuda.is_available():
        PartialState()  # so that reward models lie on this process's own GPU
    tokenizer, model = load_training_tokenizer(settings), still(load_base(settings))
    prompts, watched = (encoded(some, settings, model, tokenizer) if some else None for some in (task.questions, held))
    answering = Answering(rewards_of(task.rewards, settings), tokenizer, stops_of(model, tokenizer), settings)
    return Given(model, tokenizer, prompts, watched, answering, laid_out(prompts, settings))


def laid_out(prompts: Prompts, settings: Grouped) -> datasets.Dataset:
    """Return the prompts of all steps by their places, epoch after epoch."""
    step = settings.batch_size // settings.samples
    count = step * max(1, math.ceil(len(prompts) * settings.epochs / step))
    places = [place for epoch in range(math.ceil(count / len(prompts))) for place in order(settings, len(prompts), epoch)][:count]
    return datasets.Dataset.from_dict({"prompt": [prompts.questions[place].messages for place in places], "place": places})


def configured(start: Given, settings: Grouped, checkpoints: Path) -> dict[str, Any]:
    """Return the arguments of either trainer, each that matters with a value of our own."""
    once = replace(settings, epochs=1.0)  # the rows are those of all epochs
    answers = len(start.rows) * settings.samples * settings.passes
    return arguments(once, start.model, answers, False, checkpoints) | dict(
        num_generations=settings.samples, max_completion_length=settings.max_tokens, temperature=settings.temperature, top_p=1.0,
        top_k=0, min_p=None, repetition_penalty=1.0, num_iterations=settings.passes, epsilon=settings.clip, epsilon_high=None,
        beta=0.0, reward_weights=None, mask_truncated_completions=False, sync_ref_model=False, disable_dropout=False,
        shuffle_dataset=False, remove_unused_columns=False, use_vllm=False, log_completions=False,
        ddp_find_unused_parameters=False,
    )


class Sampling(Watching):
    """Has a TRL trainer ask and answer as PPO does here, and measure from the base that was named."""

    start: Given
    settings: Grouped

    def begin(self, start: Given, settings: Grouped) -> None:
        """Take what the trainer is to work with."""
        self.start, self.settings, self.beta = start, settings, settings.kl
        apart = reference(settings) if settings.kl else None  # TRL would look for it under the name of the base's own base
        if apart is not None:
            add_fused_lm_head(still(apart), temperature=settings.temperature)
            self.ref_model = self.accelerator.prepare_model(apart, evaluation_mode=True)

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], None, dict[str, Any]]:
        separator = self.settings.separator
        return [prompt_ids(self.start.tokenizer, turns, separator, encoder_decoder=False) for turns in prompts], None, {}

    def answers(self, prompts: list[list[int]]) -> list[list[int]]:
        """Return this process's answers of a step."""
        here, count = self.accelerator.process_index, len(prompts)
        drawn = numbers(seed_of(self.settings, self.state.global_step), count * self.accelerator.num_processes,
                        self.settings.max_tokens)[here * count:(here + 1) * count]
        model = self.accelerator.unwrap_model(self.model)
        return self.start.answering.sample(model, prompts, drawn, cut_batch(self.settings)[0])


def rewarding(start: Given) -> Any:
    """Return a reward as TRL calls it."""

    def reward(completion_ids: list[list[int]], place: list[int], log_metric: Any, **more: Any) -> list[float]:
        asked = [start.prompts.questions[one] for one in place]
        totals, means = start.answering.rewards(asked, start.answering.read(completion_ids))
        for name, mean in means.items():
            log_metric(f"{OF}{name}", mean)
        return totals

    return reward


class Held(TrainerCallback):
    """Has held-out prompts answered where an epoch ends, before a checkpoint of that step is written."""

    def __init__(self, trainer: Any, start: Given, settings: Grouped):
        self.trainer, self.start, self.settings = trainer, start, settings
        self.every = math.ceil(len(start.prompts) * settings.samples / settings.batch_size) * settings.passes
        self.samples: list[dict[str, Any]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs) -> None:
        """Note the mean reward of the held-out prompts."""
        ends = state.global_step >= state.max_steps
        if not ends and (self.start.held is None or state.global_step % self.every):
            return
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        asked = self.start.held or self.start.prompts.at(range(min(len(self.start.prompts), MOST)))
        found, self.samples = self.start.answering.worth(model, asked, cut_batch(self.settings)[0])
        if self.start.held is not None:
            state.log_history.append({"step": state.global_step, "eval_reward": found})


def finish(trainer: Any, start: Given, settings: Grouped, output: Path, checkpoints: Path, progress: Progress) -> dict[str, Any]:
    """Train, and return the metrics."""
    trainer.begin(start, settings)
    held = Held(trainer, start, settings)
    trainer.add_callback(held)
    metrics = run(trainer, settings, output, checkpoints, progress, {"dropped": start.prompts.dropped})
    drawn = curves(of_answers(trainer.state.log_history), LOGGED)
    metrics |= {name: drawn[f"{name}_curve"][-1][1] for name in ("reward", "kl", "eval_reward") if f"{name}_curve" in drawn}
    if trainer.is_world_process_zero():
        file = output / "metrics.json"
        found = json.loads(file.read_text(encoding="utf-8")) | metrics | {"settings": told(settings, len(start.prompts))}
        found |= drawn
        file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        write_samples(held.samples, output)
    return metrics


def of_answers(history: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """Return what was logged with the divergence of an answer in nats; it is logged of a token."""
    found, length = [], 0.0
    for entry in history:
        length = entry.get("completions/mean_length", length)
        found.append({**entry, "kl": entry["kl"] * length} if "kl" in entry else dict(entry))
    return found
