"""Training on a model's own answers: each is given a reward, and what was rewarded becomes more likely."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from ddmake import train
from ddmake.ddfile.inputs import Free, Model, Parts, Progress, Prompt
from ddmake.ddfile.specs import Lora
from ddmake.ddfile.target import ModelName, Source
from ddmake.errors import DdfileError, DdmakeError, did_you_mean
from ddmake.rules.columns import need as need_column
from ddmake.rules.learning import (
    Arguments,
    Bits,
    Count,
    Inputs,
    OnChange,
    Trackers,
    Whether,
    check,
    columns_of,
    named_parts,
    need_causal,
    need_packages,
    settings,
)

if TYPE_CHECKING:
    from ddmake.trainers.online import Online

RATES = {  # (all weights, with an adapter): the learning rate unless one is given; an adapter wants about ten times as much
    "ppo": (3e-6, 3e-5),  # as Huang et al. 2024, arXiv 2403.17031
    "rloo": (1e-6, 1e-5),  # TRL's
    "grpo": (1e-6, 1e-5),  # as Shao et al., and TRL's
}
ABOVE = ("max_tokens", "temperature", "samples", "passes", "minibatches", "clip", "value_clip", "kl_target", "kl_horizon")
AT_LEAST = ("kl", "missing_eos_penalty", "value_weight")
SHARES = ("gamma", "lam")

Prompts = Annotated[Any, Parts("train", observed=("validation",))]
Loss = Literal["grpo", "dr_grpo", "dapo"]
Spread = Literal["group", "batch", "none"]


def _rewarded(inputs: Inputs, arguments: Arguments) -> None:
    """Check what is said of a training on a model's own answers."""
    check(inputs, arguments)
    there, prompt = columns_of(inputs["parts"]), arguments["prompt"]
    prompt.need(there) if prompt is not None else need_column(there, "prompt", "to answer")
    _check_numbers(arguments)
    _check_rewards(_several(arguments["reward"]), arguments["weights"])
    if arguments["revision"] is not None and any(isinstance(one, ModelName) for one in _several(arguments["reward"])):
        raise DdfileError(f"revision={arguments['revision']!r} would be asked of the reward model, too. Give that as a folder.")
    if arguments["peft"] is not None and arguments["peft"].dropout:
        raise DdfileError(f"lora(dropout={arguments['peft'].dropout}): by dropout alone the odds of an answer would change while "
                          "it is learned from. Leave it out.")


def _grouped(inputs: Inputs, arguments: Arguments) -> None:
    """Check `rloo` and `grpo`, too, which compare the answers to one prompt."""
    _rewarded(inputs, arguments)
    samples, batch = arguments["samples"], arguments["batch_size"]
    if samples < 2:
        raise DdfileError(f"samples={samples}: answers to one prompt are compared, at least 2.")
    if batch % samples:
        raise DdfileError(f"batch_size={batch} can't be cut into groups of samples={samples} answers to a prompt. Take "
                          f"batch_size={samples * max(1, round(batch / samples))}.")


def _check_numbers(arguments: Arguments) -> None:
    """Raise DdfileError for a number that makes no sense."""
    for names, fits, what in ((ABOVE, lambda number: number > 0, "above 0"), (AT_LEAST, lambda number: number >= 0, "at least 0"),
                              (SHARES, lambda number: 0 <= number <= 1, "from 0 to 1")):
        for name in names:
            if arguments.get(name) is not None and not fits(arguments[name]):
                raise DdfileError(f"{name}={arguments[name]}; it is {what}.")
    if arguments["max_tokens"] >= arguments["max_length"]:
        raise DdfileError(f"max_length={arguments['max_length']} is of a prompt with its answer, and leaves no room for one of "
                          f"max_tokens={arguments['max_tokens']}.")


def _check_rewards(rewards: Sequence[Any], weights: Sequence[float] | None) -> None:
    """Raise DdfileError for what can't be a reward, and for weights that aren't one for each."""
    odd = next((reward for reward in rewards if not callable(reward) and not isinstance(reward, (Source, ModelName))), None)
    if not rewards or odd is not None:
        given = "" if odd is None else f"={odd!r}"
        raise DdfileError(f"reward{given}: give a function of (answer, row), a reward model, or a list of them.")
    for reward in filter(callable, rewards):
        try:
            inspect.signature(reward).bind("", {})
        except TypeError as error:
            raise DdfileError(f"reward {reward.__name__}: it is called with an answer and its row, (answer, row), and takes "
                              f"{inspect.signature(reward)}: {error}.") from None
    if weights is not None and len(weights) != len(rewards):
        raise DdfileError(f"weights={list(weights)}: give one number for each reward; there is {len(rewards)}."
                          if len(rewards) == 1 else
                          f"weights={list(weights)}: give one number for each reward; there are {len(rewards)}.")


def _several(reward: Any) -> list[Any]:
    return list(reward) if isinstance(reward, (list, tuple)) else [reward]


@train(version="1", columns=_rewarded)
def ppo(parts: Prompts, *, base: Model, reward: Model, weights: Sequence[float] | None = None, peft: Lora | None = None,
        prompt: Prompt | None = None, max_tokens: int = 256, temperature: float = 1.0, minibatches: int = 1, passes: int = 4,
        clip: float = 0.2, value_clip: float = 0.2, value_weight: float = 0.1, gamma: float = 1.0, lam: float = 0.95,
        kl: float = 0.05, kl_target: float | None = 6.0, kl_horizon: int = 10_000, whiten_rewards: bool = False,
        missing_eos_penalty: float = 0.0, epochs: float = 1.0, batch_size: int = 64,
        micro_batch: Annotated[int | None, Free] = None, learning_rate: float | None = None, warmup: float = 0.03,
        schedule: str = "linear", weight_decay: float = 0.0, max_grad_norm: float = 1.0, max_length: int = 1024,
        dtype: str | None = None, revision: str | None = None, separator: str = "\n", seed: int = 0,
        quantize: Bits | None = None, deterministic: bool = False, gradient_checkpointing: Whether = None,
        trackers: Trackers = (), processes: Count = None, on_change: OnChange = "mark",
        output: Path, checkpoints: Path, progress: Progress) -> None:
    """Teach a language model to give answers that are rewarded, by proximal policy optimisation.

    Rounds of sampled answers are scored by `reward`, and learned from in some passes with a clipped objective (Schulman et
    al. 2017, arXiv 1707.06347), advantages being estimated by a value head (Schulman et al. 2015, arXiv 1506.02438). The
    divergence from the base is charged for, and its price held near a target (Ziegler et al. 2019, arXiv 1909.08593).
    `reward` is a function of (answer, row), a model that `reward_model` made, or a list of several, summed by `weights`. With
    `peft=lora(…)` an adapter is learned beside the base (Hu et al. 2021, arXiv 2106.09685). Held-out prompts in `validation`
    only draw a curve.
    """
    arguments = locals()
    need_packages("ppo", peft)
    need_causal("ppo", base, revision)
    from ddmake.trainers import ppo as trainer

    _train("ppo", trainer.train, trainer.Proximal, arguments)


@train(version="1", columns=_grouped)
def rloo(parts: Prompts, *, base: Model, reward: Model, weights: Sequence[float] | None = None, peft: Lora | None = None,
         prompt: Prompt | None = None, max_tokens: int = 256, temperature: float = 1.0, samples: int = 4, passes: int = 1,
         clip: float = 0.2, kl: float = 0.05, missing_eos_penalty: float = 0.0, epochs: float = 1.0, batch_size: int = 64,
         micro_batch: Annotated[int | None, Free] = None, learning_rate: float | None = None, warmup: float = 0.03,
         schedule: str = "linear", weight_decay: float = 0.0, max_grad_norm: float = 1.0, max_length: int = 1024,
         dtype: str | None = None, revision: str | None = None, separator: str = "\n", seed: int = 0,
         quantize: Bits | None = None, deterministic: bool = False, gradient_checkpointing: Whether = None,
         trackers: Trackers = (), processes: Count = None, on_change: OnChange = "mark",
         output: Path, checkpoints: Path, progress: Progress) -> None:
    """Teach a language model to give answers that are rewarded, each measured by the others to the same prompt.

    REINFORCE with the other answers' mean reward as baseline (Ahmadian et al. 2024, arXiv 2402.14740), by TRL's RLOOTrainer:
    `samples` answers are drawn to each prompt, and no value head is learned. The divergence from the base lowers the reward
    by `kl` times. `reward` is a function of (answer, row), a model that `reward_model` made, or a list of several, summed by
    `weights`. With `peft=lora(…)` an adapter is learned beside the base (Hu et al. 2021, arXiv 2106.09685). Held-out prompts
    in `validation` only draw a curve.
    """
    arguments = locals()
    need_packages("rloo", peft, "trl")
    need_causal("rloo", base, revision)
    from ddmake.trainers import rloo as trainer

    _train("rloo", trainer.train, trainer.LeaveOneOut, arguments)


@train(version="1", columns=_grouped)
def grpo(parts: Prompts, *, base: Model, reward: Model, weights: Sequence[float] | None = None, peft: Lora | None = None,
         prompt: Prompt | None = None, max_tokens: int = 256, temperature: float = 1.0, samples: int = 8, passes: int = 1,
         clip: float = 0.2, kl: float = 0.04, loss: Loss = "grpo", scale: Spread = "group", missing_eos_penalty: float = 0.0,
         epochs: float = 1.0, batch_size: int = 64, micro_batch: Annotated[int | None, Free] = None,
         learning_rate: float | None = None, warmup: float = 0.03, schedule: str = "linear", weight_decay: float = 0.0,
         max_grad_norm: float = 1.0, max_length: int = 1024, dtype: str | None = None, revision: str | None = None,
         separator: str = "\n", seed: int = 0, quantize: Bits | None = None, deterministic: bool = False,
         gradient_checkpointing: Whether = None, trackers: Trackers = (), processes: Count = None, on_change: OnChange = "mark",
         output: Path, checkpoints: Path, progress: Progress) -> None:
    """Teach a language model to give answers that are rewarded, by how each stands in the group of answers to its prompt.

    Group relative policy optimisation (Shao et al. 2024, arXiv 2402.03300) by TRL's GRPOTrainer: `samples` answers are drawn
    to each prompt, and an answer's advantage is its reward less the group's mean, over the group's deviation. The divergence
    from the base is charged for, `kl` times. `reward` is a function of (answer, row), a model that `reward_model` made, or a
    list of several, summed by `weights`. With `peft=lora(…)` an adapter is learned beside the base (Hu et al. 2021, arXiv
    2106.09685). Held-out prompts in `validation` only draw a curve.
    """
    arguments = locals()
    need_packages("grpo", peft, "trl")
    need_causal("grpo", base, revision)
    from ddmake.trainers import grpo as trainer

    _train("grpo", trainer.train, trainer.GroupRelative, arguments)


def _train(recipe: str, trainer: Callable[..., Any], kind: "type[Online]", arguments: Arguments) -> None:
    """Train by one of the recipes above, given its arguments."""
    from ddmake.trainers.launch import launch
    from ddmake.trainers.rewards import Task, name_of

    rewards = _several(arguments["reward"])
    weights = tuple(map(float, arguments["weights"] or [1.0] * len(rewards)))
    made_of = settings(kind, arguments, RATES[recipe], rewards=tuple(map(name_of, rewards)), weights=weights)
    asked = {part: questions(recipe, part, rows, arguments["prompt"]) for part, rows in named_parts(arguments["parts"]).items()}
    launch(trainer, Task(asked["train"], rewards), asked.get("validation"), made_of, arguments["output"],
           arguments["checkpoints"], arguments["progress"])


def questions(recipe: str, part: str, rows: Any, prompt: Any) -> list[Any]:
    """Return what is asked of rows, each with its row and number.

    Rows without a prompt are left out with a printed line. Raises DdmakeError where none is left.
    """
    from ddmake.trainers.rewards import Question

    if prompt is None and "prompt" not in rows.column_names:
        raise DdmakeError(f"{recipe}: there is no column 'prompt'. Columns: {', '.join(rows.column_names)}."
                          f"{did_you_mean('prompt', rows.column_names)}")
    found = [Question(_turns(recipe, row, prompt), row, number) for number, row in enumerate(rows)
             if prompt is not None or row["prompt"] is not None]
    if len(found) < len(rows):
        print(f"{recipe}: {len(rows) - len(found)} of {len(rows)} rows of {part} left out: null in prompt", flush=True)
    if not found:
        raise DdmakeError(f"{recipe}: no prompt to answer in {part}; {len(rows)} rows given.")
    return found


def _turns(recipe: str, row: Mapping[str, Any], prompt: Any) -> list[dict[str, str]]:
    if prompt is not None:
        return [dict(turn) for turn in prompt.messages(**row)]
    if not isinstance(row["prompt"], str):
        raise DdmakeError(f"{recipe}: column 'prompt' holds {type(row['prompt']).__name__}; text is needed. Make it by prompt=.")
    return [{"role": "user", "content": row["prompt"]}]
