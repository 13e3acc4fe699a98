"""What the trainers share: settings, tokens, arguments with explicit values, progress, and the model folder."""

import json
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import peft
import torch
import transformers
from transformers import GenerationConfig, PrinterCallback, Trainer
from transformers.pytorch_utils import Conv1D

from ddmake.backends.hf import context_window, end_tokens
from ddmake.backends.loading import load_generation, load_model, load_tokenizer
from ddmake.backends.models import SEPARATOR, is_adapter
from ddmake.ddfile.specs import Lora
from ddmake.errors import DdmakeError, did_you_mean
from ddmake.trainers import best, samples
from ddmake.trainers.checkpoints import BEST, Saver, by_first, libraries, resumption
from ddmake.trainers.quantizing import load_rounded
from ddmake.trainers.ranks import all_here, gathered, need_sharded, sharing
from ddmake.trainers.tokens import IGNORED as IGNORED
from ddmake.trainers.tokens import Encode as Encode
from ddmake.trainers.tokens import tokenize as tokenize
from ddmake.trainers.tracking import Heard, Tracking, tracked
from ddmake.trainers.watching import Progress, Teller
from ddmake.trainers.watching import Watching as Watching

Saves = Callable[..., Mapping[str, Any] | None]  # of (trainer, settings, output, whole weights)
POINTS = 200  # of the loss curve, at most about
LARGE = 1_000_000_000  # parameters from which on activations are computed again instead of kept
CURVES = {"loss": "loss", "rewards/accuracies": "accuracy", "accuracy": "accuracy", "rewards/margins": "margin",
          "margin": "margin", "f1": "f1", "spearman": "spearman"}  # what is logged, and its name in the metrics
HOW = ("base", "base_name", "teacher", "peft", "micro_batch", "gradient_checkpointing", "trackers", "processes", "sharded",
       "on_change")  # not what
ADAPTABLE = (torch.nn.Linear, torch.nn.Embedding, torch.nn.Conv1d, torch.nn.Conv2d, Conv1D)  # what peft puts an adapter on
LEFT_BEHIND = ("README.md", "training_args.bin")  # cards are written elsewhere; the other is a pickle


@dataclass(frozen=True)
class Settings:
    """What a training is made of. `batch_size` is examples per optimiser step over all processes."""

    base: Path | str
    base_name: str  # how the adapter's config names the base
    learning_rate: float
    revision: str | None = None
    peft: Lora | None = None
    epochs: float = 3.0
    batch_size: int = 8
    micro_batch: int | None = None  # examples at once on a device; says only how a batch is cut up
    warmup: float = 0.03  # a share of all steps below 1, a number of steps from 1 on
    schedule: str = "linear"
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    max_length: int = 1024  # tokens of an example (of a prompt, and of a completion, with an encoder-decoder)
    dtype: str | None = None  # "float32", "bfloat16", or None: bfloat16 where a GPU has it
    seed: int = 0
    separator: str = "\n"
    packing: bool = False  # examples are put together, up to max_length
    quantize: str | None = None  # the frozen base under an adapter in fewer bits
    best: bool = False  # the weights of the best evaluation are kept, not those of the last step
    patience: int | None = None  # ends after so many evaluations without a better one; then the best weights are kept, too
    evaluate_every: int | None = None  # steps; by default an evaluation ends each epoch
    deterministic: bool = False  # on a GPU: kernels that give the same bits each time
    gradient_checkpointing: bool | None = None  # None: on a GPU, from a billion parameters on
    trackers: tuple[str, ...] = ()
    processes: int | None = None
    sharded: bool = False  # on GPUs: each process holds a part of the weights
    on_change: str = "mark"  # what becomes of a checkpoint that was made under other circumstances: "mark" or "restart"


def hush() -> None:
    """Switch off telemetry, progress bars and notices of the libraries."""
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True  # read when it was imported, which was long ago
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    # what these libraries say to each other of names that will change
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft|trl|accelerate)\b")


def half(settings: Settings) -> bool:
    """Tell whether to compute in bfloat16. Raises DdmakeError for a type that isn't trained in."""
    if settings.dtype not in (None, "float32", "bfloat16"):
        raise DdmakeError(f"dtype={settings.dtype!r}: training takes 'float32' or 'bfloat16'.")
    if settings.dtype is None:
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return settings.dtype == "bfloat16"


def load_base(settings: Settings) -> torch.nn.Module:
    """Load the model to train; its weights are float32, but for those that an adapter leaves alone on a GPU or that are rounded.

    A base with an adapter is float32, in which alone that is merged. Raises DdmakeError for what can't be trained.
    """
    transformers.set_seed(settings.seed)
    if settings.quantize is not None:
        model = load_rounded(settings.base, settings.revision, settings.quantize, "bfloat16" if half(settings) else "float32")
    else:
        kept = settings.peft is not None and half(settings) and torch.cuda.is_available() and not is_adapter(settings.base)
        model = load_model(settings.base, settings.revision, "bfloat16" if kept else "float32")
        model.requires_grad_(True)  # an adapter that was merged has left them frozen
    model.generation_config = load_generation(settings.base, model)
    need_targets(model, settings)
    return model


def need_targets(model: torch.nn.Module, settings: Settings) -> None:
    """Raise DdmakeError for a module that an adapter is to be put on and that the model lacks."""
    lora = settings.peft
    if lora is None or isinstance(lora.targets, str):
        return
    head = model.get_output_embeddings()
    linear = {name.rpartition(".")[2] for name, module in model.named_modules()
              if isinstance(module, torch.nn.Linear) and module is not head}
    for target in lora.targets:
        meant = [module for name, module in model.named_modules() if name == target or name.endswith(f".{target}")]
        if not meant or head in meant or not all(isinstance(module, ADAPTABLE) for module in meant):
            has = "has no module" if not meant else "writes by its module" if head in meant else "takes no adapter on its module"
            raise DdmakeError(f"lora(targets=): base {settings.base_name} {has} {target!r}. Its linear ones: "
                              f"{', '.join(sorted(linear))}.{did_you_mean(target, sorted(linear))}")


def load_training_tokenizer(settings: Settings) -> Any:
    """Load the base's tokenizer. Raises DdmakeError if it has no token that ends a text."""
    tokenizer = load_tokenizer(settings.base, settings.revision)
    if tokenizer.eos_token_id is None:
        raise DdmakeError(f"base {settings.base_name}: its tokenizer has no eos token, so a tuned model would never stop.")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def example_length(settings: Settings, model: torch.nn.Module, tokenizer: Any) -> int:
    """Return how many tokens of an example are used: max_length, or what the model takes if that is less."""
    return min(settings.max_length, context_window(model.config, tokenizer))


def lora_config(lora: Lora | None, task: str) -> peft.LoraConfig | None:
    """Return peft's config of an adapter for a task ("CAUSAL_LM", "SEQ_2_SEQ_LM")."""
    if lora is None:
        return None
    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    return peft.LoraConfig(r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets,
                           bias="none", task_type=task)


def cut_batch(settings: Settings) -> tuple[int, int]:
    """Return the examples that a process takes at once, and how many times it does in an optimiser step.

    Raises DdmakeError if the batch can't be cut that way.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    share, rest = divmod(settings.batch_size, processes)
    micro = settings.micro_batch or at_once(share)
    if rest or share % micro:
        raise DdmakeError(f"batch_size={settings.batch_size} can't be cut into {processes} processes × micro_batch={micro}.")
    return micro, share // micro


def at_once(examples: int) -> int:
    """Return how many of a batch's examples are taken at once where that isn't stated: 16 at most."""
    return max(size for size in range(1, min(examples, 16) + 1) if examples % size == 0)


def arguments(settings: Settings, model: torch.nn.Module, examples: int, evaluated: bool,
              checkpoints: Path) -> dict[str, Any]:
    """Return transformers' training arguments, each that matters with a value of our own.

    So a library's new default changes nothing unseen. Checkpoints are asked for by `Saver`.
    """
    micro, accumulation = cut_batch(settings)
    epoch = math.ceil(examples / settings.batch_size)
    steps = math.ceil(epoch * settings.epochs)
    cuda, again = torch.cuda.is_available(), settings.gradient_checkpointing
    return dict(
        output_dir=str(checkpoints), num_train_epochs=settings.epochs, max_steps=-1,
        per_device_train_batch_size=micro, per_device_eval_batch_size=micro, gradient_accumulation_steps=accumulation,
        learning_rate=settings.learning_rate, warmup_steps=warmup_steps(settings, steps), lr_scheduler_type=settings.schedule,
        optim="adamw_torch", adam_beta1=0.9, adam_beta2=0.999, adam_epsilon=1e-8,
        weight_decay=settings.weight_decay, max_grad_norm=settings.max_grad_norm, label_smoothing_factor=0.0,
        seed=settings.seed, data_seed=settings.seed, bf16=half(settings), fp16=False, tf32=None, use_cpu=not cuda,
        dataloader_drop_last=False, dataloader_num_workers=0, dataloader_pin_memory=cuda,
        logging_strategy="steps", logging_steps=max(1, steps // POINTS),
        logging_first_step=False, logging_nan_inf_filter=False, save_strategy="no", report_to="none", disable_tqdm=True,
        # after a step and not after an epoch, so that a checkpoint of that step knows of it
        eval_strategy="steps" if evaluated else "no", eval_steps=settings.evaluate_every or epoch,
        push_to_hub=False, auto_find_batch_size=False,
        gradient_checkpointing=cuda and model.num_parameters() > LARGE if again is None else again,
        gradient_checkpointing_kwargs={"use_reentrant": False}, **sharing(settings.sharded),
    )


def warmup_steps(settings: Settings, steps: int) -> int:
    """Return how many of a training's steps the learning rate rises in: a share is rounded down, and the last never is one.

    The first of them has a rate of 0: a training of one step would learn nothing.
    """
    asked = int(settings.warmup if settings.warmup >= 1 else settings.warmup * steps)
    if asked >= steps:
        print(f"warmup={settings.warmup:g} would take all steps of this training, {steps}: it takes {steps - 1}", flush=True)
    return min(asked, steps - 1)


def run(trainer: Trainer, settings: Settings, output: Path, checkpoints: Path, progress: Progress,
        notes: Mapping[str, float], shown: datasets.Dataset | None = None, saves: Saves | None = None) -> dict[str, Any]:
    """Train from the newest sound checkpoint or from the start, fill the model folder, and return the metrics.

    `shown` are rows of which some are asked of the model when it is there, for a reader to look at. `saves` fills the folder of
    a model that isn't saved like others, and returns what more there is to tell of it. Raises Paused where its time is over.
    """
    circumstances = {"threads": torch.get_num_threads(), "processes": trainer.args.world_size,
                     "micro_batch": trainer.args.per_device_train_batch_size, **libraries()}
    since = by_first(lambda: resumption(checkpoints, circumstances, settings.on_change))
    saver = Saver(checkpoints, circumstances, since.seconds, since.marks)
    made_of = told(settings, notes.get("examples", len(trainer.train_dataset)))
    names = settings.trackers if trainer.is_world_process_zero() else ()
    with steady(settings), tracked(names, made_of, output, checkpoints) as tracking:
        watch(trainer, settings, saver, progress, tracking)
        trainer.train(resume_from_checkpoint=str(since.checkpoint) if since.checkpoint else None)
        saver.need_whole(trainer.state.global_step)
        metrics = measure(trainer, keeps_best(settings)) | {"runtime_s": round(saver.seconds(), 1)} | dict(notes)
    if since.marks:
        metrics |= {"reproducible": False, "why_not": "; ".join(since.marks)}
    if keeps_best(settings):
        all_here()  # the first process has written them
        best.put_back(trainer.model, checkpoints / BEST)
    whole = gathered(trainer)
    if trainer.is_world_process_zero():
        metrics |= (saves or save)(trainer, settings, output, whole) or {}
        found = metrics | curves(trainer.state.log_history) | {"settings": made_of}
        (output / "metrics.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        if shown is not None and not settings.sharded:
            samples.write(trainer, shown, settings.separator, output)
    return metrics


def watch(trainer: Trainer, settings: Settings, saver: Saver, progress: Progress, tracking: Tracking) -> None:
    """Have a trainer tell of itself, keep checkpoints and what is best."""
    trainer.remove_callback(PrinterCallback)
    keeper = [best.Best(saver.folder, settings.patience)] if keeps_best(settings) else []
    for callback in (Teller(progress), saver, *keeper, Heard(tracking)):
        trainer.add_callback(callback)
    if settings.sharded:
        need_sharded(trainer)
    if settings.quantize is not None:
        for _, weight in best.trained(trainer.model):
            weight.data = weight.data.float()  # TRL has made them bfloat16, in which small steps are lost


def keeps_best(settings: Settings) -> bool:
    """Tell whether the weights of the best evaluation are kept."""
    return settings.best or settings.patience is not None


@contextmanager
def steady(settings: Settings) -> Iterator[None]:
    """Compute on a GPU by kernels that give the same bits each time, where that is asked for."""
    if not (settings.deterministic and torch.cuda.is_available()):
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def curves(history: Sequence[Mapping[str, float]]) -> dict[str, list[list[float]]]:
    """Return the loss, and of preferences the accuracy and the margin, as `[step, value]`; so, too, what evaluations told."""
    names = CURVES | {f"eval_{logged}": f"eval_{name}" for logged, name in CURVES.items()}
    found: dict[str, list[list[float]]] = {"loss_curve": []}
    for entry in history:
        for logged, name in names.items():
            if logged in entry:
                found.setdefault(f"{name}_curve", []).append([entry["step"], entry[logged]])
    return found


def told(settings: Settings, examples: int) -> dict[str, Any]:
    """Return what a training was made of, for `evaluate` to tell models apart by; how a batch is cut says nothing of that."""
    found = {name: value for name, value in asdict(settings).items() if name not in HOW}
    lora = {f"lora_{f.name}": getattr(settings.peft, f.name, None) for f in fields(Lora)}
    return {"base": settings.base_name, "examples": examples, **found, **lora}


def mean(history: Sequence[Mapping[str, float]], name: str, steps: int) -> float:
    """Return the mean over so many steps of what was logged by a name: each value is that of the steps since the one before."""
    logged = [(entry["step"], entry[name]) for entry in history if name in entry]
    before = [0, *(at for at, _ in logged[:-1])]
    return sum(value * (at - last) for (at, value), last in zip(logged, before, strict=True)) / max(1, steps)


def measure(trainer: Trainer, keeps: bool) -> dict[str, Any]:
    """Return train_loss (the mean over all steps), steps, and the last eval_loss, or the best where that is what is kept.

    Of preferences also train_accuracy: how often the chosen answer was the likelier one, or had the higher reward.
    """
    history, step = trainer.state.log_history, trainer.state.global_step
    found = {"train_loss": mean(history, "loss", step), "steps": step}
    told = next((name for name in ("rewards/accuracies", "accuracy") if any(name in entry for entry in history)), None)
    if told is not None:
        found["train_accuracy"] = mean(history, told, step)
    if trainer.eval_dataset is None:
        return found
    if not any("eval_loss" in entry and entry["step"] == step for entry in history):
        trainer.evaluate()
    evaluations = best.evaluations(history)
    held = evaluations[best.place_of_best(evaluations) if keeps else -1]
    found |= {"best_step": held["step"]} if keeps else {}
    return found | {f"eval_{name}": held[f"eval_{logged}"] for logged, name in CURVES.items() if f"eval_{logged}" in held}


def save(trainer: Trainer, settings: Settings, output: Path, whole: Mapping[str, torch.Tensor] | None) -> None:
    """Fill the model folder with what a trainer has made."""
    fill(trainer.accelerator.unwrap_model(trainer.model), trainer.processing_class, settings, output, whole)


def fill(model: torch.nn.Module, tokenizer: Any, settings: Settings, output: Path,
         whole: Mapping[str, torch.Tensor] | None = None) -> None:
    """Fill a model folder: weights as safetensors, tokenizer, a generation config that stops; no path of this machine."""
    writes = hasattr(model, "generation_config")  # a reward model writes no text
    if writes:
        model.generation_config = stopping(model.generation_config, tokenizer)
    output.mkdir(parents=True, exist_ok=True)
    if settings.peft is None:
        model.save_pretrained(output, state_dict=whole)
    else:
        config = model.peft_config["default"]
        config.base_model_name_or_path, config.revision = settings.base_name, settings.revision
        if isinstance(config.target_modules, set):
            config.target_modules = sorted(config.target_modules)  # a set's order differs from run to run
        # "auto" would ask the Hub for a base of that name
        model.save_pretrained(output, state_dict=whole, save_embedding_layers=False)
    if writes:
        model.generation_config.save_pretrained(output)
    keep_separator(tokenizer, settings.separator)
    tokenizer.save_pretrained(output)
    for name in LEFT_BEHIND:
        (output / name).unlink(missing_ok=True)


def keep_separator(tokenizer: Any, separator: str) -> None:
    """Have a tokenizer's config tell what ended a prompt in training, so that the model is asked in the same way."""
    tokenizer.init_kwargs.pop(SEPARATOR, None)  # of the base's own training
    if separator != "\n" and not tokenizer.chat_template:
        tokenizer.init_kwargs[SEPARATOR] = separator


def stopping(config: GenerationConfig, tokenizer: Any) -> GenerationConfig:
    """Return a generation config whose end tokens hold the one that was trained."""
    ends = end_tokens(config, tokenizer)
    config.eos_token_id = ends if tokenizer.eos_token_id in ends else [*ends, tokenizer.eos_token_id]
    config.pad_token_id = tokenizer.pad_token_id
    return config
