"""Distillation of models."""

from pathlib import Path
from typing import Annotated

from ddmake import train
from ddmake.ddfile.inputs import Free, Model, Progress, Prompt
from ddmake.ddfile.specs import Lora
from ddmake.errors import DdfileError, DdmakeError
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
)
from ddmake.rules.training import examples

RATES = (2e-5, 2e-4)  # of all weights, and with an adapter: as in fine-tuning


def _taught(inputs: Inputs, arguments: Arguments) -> None:
    """Check the columns of the rows to learn from, and what is said of the loss."""
    check(inputs, {**arguments, "beta": None})
    for name in ("beta", "alpha"):
        if not 0 <= arguments[name] <= 1:
            raise DdfileError(f"{name}={arguments[name]}; it is from 0 to 1.")
    if arguments["alpha"] == 0:
        raise DdfileError("alpha=0 learns nothing of the teacher: that is finetune().")
    if arguments["temperature"] <= 0:
        raise DdfileError(f"temperature={arguments['temperature']}; it is above 0.")
    prompt, messages, completion = arguments["prompt"], arguments["messages"], arguments["completion"]
    if messages and (prompt or completion != "completion"):
        raise DdfileError("distill learns from messages=, or from prompt= and completion=, not from both.")
    there = columns_of(inputs["parts"])
    if prompt is not None:
        prompt.need(there)
    for name in [messages] if messages else [completion] if prompt else ["prompt", completion]:
        need_column(there, name, "to learn from")


@train(version="2", columns=_taught)
def distill(parts: TrainParts, *, base: Model, teacher: Model, peft: Lora | None = None, prompt: Prompt | None = None,
            completion: str = "completion", messages: str | None = None, temperature: float = 1.0, beta: float = 0.0,
            alpha: float = 1.0, epochs: float = 3.0, batch_size: int = 8, micro_batch: Annotated[int | None, Free] = None,
            learning_rate: float | None = None, warmup: float = 0.03, schedule: str = "linear", weight_decay: float = 0.0,
            max_grad_norm: float = 1.0, max_length: int = 1024, dtype: str | None = None, revision: str | None = None,
            separator: str = "\n", seed: int = 0, quantize: Bits | None = None, best: bool = False, patience: int | None = None,
            evaluate_every: int | None = None, deterministic: bool = False, gradient_checkpointing: Whether = None,
            trackers: Trackers = (), processes: Count = None, sharded: Flag = False, on_change: OnChange = "mark",
            output: Path, checkpoints: Path, progress: Progress) -> None:
    """Teach a language model what another one thinks likely, token by token, of each row's completion.

    Knowledge distillation (Hinton et al. 2015, arXiv 1503.02531) on given sequences (Kim and Rush 2016, arXiv 1606.07947), which
    the teacher has best written itself. The loss is the divergence of both models' probabilities at a `temperature`: with
    `beta` 0 KL(teacher || student), with 1 KL(student || teacher), between them the generalised one of Jensen and Shannon
    (Agarwal et al. 2023, arXiv 2306.13649). `alpha` is its share of the loss, the rest is fine-tuning's. Both models have the
    same vocabulary. With `peft=lora(…)` the base is left as it is and an adapter is learned beside it (Hu et al. 2021, arXiv
    2106.09685). A validation set only draws a curve.
    """
    arguments = locals()
    need_packages("distill", peft, "trl")
    need_causal("distill", base, revision)
    from ddmake.backends.hub import name_of
    from ddmake.backends.models import base_name, is_encoder_decoder
    from ddmake.trainers import distill as trainer
    from ddmake.trainers.launch import launch

    hub = name_of(teacher)
    name = hub.repo if hub else base_name(teacher)
    if is_encoder_decoder(teacher):
        raise DdmakeError(f"distill: teacher {name} is an encoder-decoder; take a causal model.")
    made_of = settings(trainer.Distilled, arguments, RATES, teacher_name=name)
    shown = {part: examples(rows, prompt, completion, messages, "distill") for part, rows in named_parts(parts).items()}
    launch(trainer.train, shown["train"], shown.get("validation"), made_of, output, checkpoints, progress)
