"""Proximal policy optimisation of a causal model (Schulman et al. 2017, arXiv 1707.06347; of text: Ziegler et al. 2019,
arXiv 1909.08593).

A round samples answers, scores them, and takes some passes over them. All chance of a round comes from its number, and dropout
is off, so that a killed training goes on to the same weights by what a checkpoint holds. How answers are cut up over processes
and into micro-batches doesn't change what they are.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from accelerate import PartialState
from transformers import get_scheduler

from ddmake.trainers import common
from ddmake.trainers.advantages import gae, moments, next_kl, placed, policy_loss, value_loss, whitened
from ddmake.trainers.checkpoints import ending, libraries
from ddmake.trainers.online import (
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
    shown,
    stops_of,
    write_samples,
)
from ddmake.trainers.policy import Policy
from ddmake.trainers.preference import reference, still
from ddmake.trainers.rewards import Question, Task
from ddmake.trainers.standing import Keeper, Moving, Standing
from ddmake.trainers.sums import joined, mean, processes, total
from ddmake.trainers.tracking import Tracking, tracked
from ddmake.trainers.watching import stop

NOTED = {name: name for name in ("loss", "reward", "kl", "kl_coefficient", "length", "cut", "eval_reward")}
Tensor = torch.Tensor
Samples = list[dict[str, Any]]


@dataclass(frozen=True)
class Proximal(Online):
    """What such a training is made of. A round is `minibatches` times `batch_size` answers."""

    minibatches: int = 1
    passes: int = 4
    clip: float = 0.2
    value_clip: float = 0.2
    value_weight: float = 0.1
    gamma: float = 1.0
    lam: float = 0.95
    kl_target: float | None = 6.0  # nats of an answer
    kl_horizon: int = 10_000  # answers
    whiten_rewards: bool = False


@dataclass(frozen=True)
class Rollout:
    """This process's answers of a round: its share of each minibatch in turn. Tensors are answers × tokens."""

    prompts: list[list[int]]
    answers: list[list[int]]
    told: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    mask: Tensor


def train(task: Task, held: Sequence[Question] | None, settings: Proximal, output: Path, checkpoints: Path,
          progress: common.Progress) -> dict[str, float]:
    """Learn to answer questions so that rewards rise, and return the metrics.

    Raises DdmakeError for questions and rewards that nothing can be learned from.
    """
    common.hush()
    device = PartialState(cpu=not torch.cuda.is_available()).device
    tokenizer, base = common.load_training_tokenizer(settings), still(common.load_base(settings))
    prompts, watched = (encoded(some, settings, base, tokenizer) if some else None
                        for some in (task.questions, held))
    answering = Answering(rewards_of(task.rewards, settings), tokenizer, stops_of(base, tokenizer), settings)
    if settings.peft is not None:
        transformers.set_seed(settings.seed)  # again: loading may have drawn
        base = still(peft.get_peft_model(base, common.lora_config(settings.peft, "CAUSAL_LM")))
    apart = reference(settings)
    if common.arguments(settings, base, len(prompts), False, checkpoints)["gradient_checkpointing"]:
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        base.enable_input_require_grads()
    policy = Policy(base if settings.quantize else base.to(device), still(apart).eval().to(device) if apart else None, settings,
                    answering.stops)
    with common.steady(settings):
        return Training(policy, answering, prompts, watched, settings, checkpoints, progress).run(output)


class Training:
    """One training: rounds of answers, and the optimiser's steps on them."""

    def __init__(self, policy: Policy, answering: Answering, prompts: Prompts, held: Prompts | None, settings: Proximal,
                 checkpoints: Path, progress: common.Progress):
        self.policy, self.answering, self.prompts, self.held = policy, answering, prompts, held
        self.settings, self.progress, (self.micro, _) = settings, progress, common.cut_batch(settings)
        self.size, self.steps_a_round = settings.batch_size * settings.minibatches, settings.passes * settings.minibatches
        self.rounds = max(1, math.ceil(len(prompts) * settings.epochs / self.size))
        self.moving, self.standing = self._moving(self.rounds * self.steps_a_round), Standing(settings.kl)
        circumstances = {"threads": torch.get_num_threads(), "processes": processes(), "micro_batch": self.micro, **libraries()}
        self.keeper = Keeper(checkpoints, self.moving, circumstances, settings.on_change)

    def _moving(self, steps: int) -> Moving:
        settings, learned = self.settings, self.policy.learned()
        optimizer = torch.optim.AdamW(learned.values(), settings.learning_rate, betas=(0.9, 0.999), eps=1e-8,
                                      weight_decay=settings.weight_decay)
        warmup = common.warmup_steps(settings, steps)
        return Moving(learned, optimizer, get_scheduler(settings.schedule, optimizer, warmup, steps))

    @property
    def step(self) -> int:
        """Return how many steps the optimiser has taken, rounds that aren't done left out."""
        return self.standing.round * self.steps_a_round

    def run(self, output: Path) -> dict[str, float]:
        """Go on from the newest sound checkpoint, or begin; fill the model folder, and return the metrics."""
        self.standing = self.keeper.resume() or self.standing
        self._tell(f"resumed after step {self.step}" if self.standing.round else "begins")
        names = self.settings.trackers if PartialState().is_main_process else ()
        with tracked(names, common.told(self.settings, len(self.prompts)), output, self.keeper.folder) as tracking:
            tracking.begin(self.standing.history)
            samples = self._rounds(tracking)
        return self._finish(output, samples)

    def _rounds(self, tracking: Tracking) -> Samples:
        every, since, samples = max(1, self.rounds // common.POINTS), [], []
        self.keeper.need_time(self.step)
        while self.standing.round < self.rounds:
            noted, samples = self.turn()
            since.append(noted)
            ends = ending()
            if ends or self.standing.round % every == 0 or self.standing.round == self.rounds:
                samples = self._note(since) or samples
                tracking.note(self.step, self.standing.history[-1])
                since = []
                if self.standing.round < self.rounds:
                    self.keeper.keep_if_due(self.standing, self.step, ends)
        return samples

    def turn(self) -> tuple[dict[str, float], Samples]:
        """Do a round, and return what is noted of it and some of its answers."""
        settings, kl = self.settings, self.standing.kl
        transformers.set_seed(seed_of(self.settings, self.standing.round))  # a reward may draw, too
        rollout, noted, samples = self.roll()
        losses = [self.learn(rollout, part) for _ in range(settings.passes) for part in range(settings.minibatches)]
        self.standing.kl = next_kl(kl, noted["kl"], settings.kl_target, self.size, settings.kl_horizon)
        self.standing.round += 1
        return {**noted, "kl_coefficient": kl, "loss": sum(losses) / len(losses)}, samples

    def roll(self) -> tuple[Rollout, dict[str, float], Samples]:
        """Answer this process's prompts of a round and score that; return it, what is noted of all, and some of it."""
        own = self._own()
        asked = self.prompts.at(self._places(own))
        drawn = numbers(seed_of(self.settings, self.standing.round), self.size, self.settings.max_tokens)[own]
        answers = self.answering.sample(self.policy.model, asked.tokens, drawn, self.micro)
        texts = self.answering.read(answers)
        scores, means = self.answering.rewards(asked.questions, texts)
        rollout, far = self._weigh(asked.tokens, answers, torch.tensor(scores, device=self.policy.model.device))
        self.standing.tokens += int(total(torch.tensor(sum(map(len, [*asked.tokens, *answers])))))
        noted = {"reward": mean(scores), **{f"{OF}{name}": mean([value]) for name, value in means.items()},
                 "kl": mean(far), "length": mean(list(map(len, answers))), "cut": mean([not text.finished for text in texts])}
        return rollout, noted, shown(asked.questions, texts, scores)

    def _weigh(self, prompts: list[list[int]], answers: list[list[int]], scores: Tensor) -> tuple[Rollout, list[float]]:
        """Return answers with their advantages, and how far each is from the reference in nats."""
        settings, cut = self.settings, self._cut(range(len(answers)))
        with torch.no_grad():
            told, values = map(joined, zip(*(self.policy.tell(prompts[rows], answers[rows]) for rows in cut), strict=True))
            referred = joined([self.policy.refer(prompts[rows], answers[rows]) for rows in cut])
        mask = joined([torch.ones(1, len(answer), device=told.device) for answer in answers])
        rewards = placed(scores, told, referred, mask, self.standing.kl)
        if settings.whiten_rewards:
            rewards = whitened(rewards, mask, total(moments(rewards, mask)), shift=False)
        advantages = gae(rewards, values, mask, settings.gamma, settings.lam)
        returns = advantages + values
        advantages = whitened(advantages, mask, total(moments(advantages, mask)))
        return Rollout(prompts, answers, told, values, advantages, returns, mask), ((told - referred) * mask).sum(1).tolist()

    def learn(self, rollout: Rollout, part: int) -> float:
        """Take a step on a minibatch, and return its loss. Raises DdmakeError before one that is no number does harm."""
        share = self.settings.batch_size // processes()
        own = range(part * share, (part + 1) * share)
        tokens = total(rollout.mask[own.start:own.stop].sum())
        self.policy.model.train()
        losses = [self._descend(rollout, rows, tokens) for rows in self._cut(own)]
        loss = float(total(torch.stack(losses).sum()))
        learned = self.moving.parameters.values()
        for parameter in learned:
            parameter.grad = total(parameter.grad)
        norm = float(torch.nn.utils.clip_grad_norm_(learned, self.settings.max_grad_norm))
        for what, value in (("loss", loss), ("gradient", norm)):
            if not math.isfinite(value):
                stop(what, value, self.step + 1)
        self.moving.optimizer.step()
        self.moving.schedule.step()
        self.moving.optimizer.zero_grad()
        return loss

    def _descend(self, rollout: Rollout, rows: slice, tokens: Tensor) -> Tensor:
        """Add some answers' part to the gradient of a minibatch of so many tokens, and return their part of its loss."""
        settings = self.settings
        told, values = self.policy.tell(rollout.prompts[rows], rollout.answers[rows])
        before, guessed, advantages, returns, mask = (tensor[rows, :told.shape[1]] for tensor in (
            rollout.told, rollout.values, rollout.advantages, rollout.returns, rollout.mask))
        losses = policy_loss(told, before, advantages, settings.clip)
        losses = losses + settings.value_weight * value_loss(values, guessed, returns, settings.value_clip)
        loss = (losses * mask).sum() / tokens
        loss.backward()
        return loss.detach()

    def _cut(self, rows: range) -> list[slice]:
        return [slice(first, min(first + self.micro, rows.stop)) for first in range(rows.start, rows.stop, self.micro)]

    def _own(self) -> list[int]:
        """Return which of a round's answers are this process's: its share of each minibatch."""
        size, rank, share = self.settings.batch_size, PartialState().process_index, self.settings.batch_size // processes()
        return [part * size + rank * share + row for part in range(self.settings.minibatches) for row in range(share)]

    def _places(self, rows: Sequence[int]) -> list[int]:
        """Return which prompts some of a round's answers are to: each epoch has an order of its own."""
        placed_at = [divmod(self.standing.round * self.size + row, len(self.prompts)) for row in rows]
        orders = {epoch: order(self.settings, len(self.prompts), epoch) for epoch in {epoch for epoch, _ in placed_at}}
        return [orders[epoch][place] for epoch, place in placed_at]

    def _note(self, since: Sequence[Mapping[str, float]]) -> Samples:
        """Write the means of some rounds into the history; where an epoch ends, held-out prompts are answered: return some."""
        done, samples = self.standing.round, []
        means = {name: sum(noted[name] for noted in since) / len(since) for name in since[0]}
        entry = {"step": self.step, "rounds": len(since)} | means
        epochs = [count * self.size // len(self.prompts) for count in (done - len(since), done)]
        if self.held is not None and (epochs[0] < epochs[1] or done == self.rounds):
            entry["eval_reward"], samples = self.answering.worth(self.policy.model, self.held, self.micro)
        self.standing.history.append(entry)
        self._tell(f"reward {entry['reward']:.3f}, kl {entry['kl']:.2f}, loss {entry['loss']:.3f}")
        return samples

    def _tell(self, note: str) -> None:
        if PartialState().is_main_process:
            self.progress(self.step, self.rounds * self.steps_a_round, note)

    def _finish(self, output: Path, samples: Samples) -> dict[str, float]:
        history, last = self.standing.history, self.standing.history[-1]
        metrics = {"train_loss": sum(entry["loss"] * entry["rounds"] for entry in history) / self.rounds, "steps": self.step,
                   **{name: last[name] for name in ("reward", "kl", "eval_reward") if name in last},
                   "tokens": self.standing.tokens, "dropped": self.prompts.dropped, "runtime_s": round(self.keeper.seconds(), 1),
                   **self.keeper.marks()}
        if PartialState().is_main_process:
            common.fill(self.policy.model, self.answering.tokenizer, self.settings, output)
            found = metrics | curves(history, NOTED) | {"settings": common.told(self.settings, len(self.prompts))}
            (output / "metrics.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            write_samples(samples, output)
        return metrics
