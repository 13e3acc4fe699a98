"""What the trainers share: settings, tokens, arguments with explicit values, progress, and the model folder."""

import json
import math
import os
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import peft
import torch
import transformers
from transformers import GenerationConfig, PrinterCallback, Trainer, TrainerCallback

from ddmake.backends.hf import context_window, end_tokens
from ddmake.backends.loading import load_generation, load_model, load_tokenizer
from ddmake.backends.models import SEPARATOR, is_adapter
from ddmake.ddfile.specs import Lora
from ddmake.errors import DdmakeError, did_you_mean
from ddmake.trainers.checkpoints import Saver, newest_sound, notes_of

Progress = Callable[[int, int, str], None]
Encode = Callable[[Mapping[str, Any]], dict[str, list[int]]]
POINTS = 200  # of the loss curve, at most about
LARGE = 1_000_000_000  # parameters from which on activations are computed again instead of kept
CURVES = {"loss": "loss", "rewards/accuracies": "accuracy", "accuracy": "accuracy", "rewards/margins": "margin",
          "margin": "margin"}  # what is logged, and its name in the metrics
IGNORED = -100  # the label of a token that the loss leaves out
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
    """Load the model to train; its weights are float32, but for those that an adapter leaves alone on a GPU.

    A base with an adapter is float32, in which alone that is merged. Raises DdmakeError for what can't be trained.
    """
    transformers.set_seed(settings.seed)
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
    names = [name for name, _ in model.named_modules()]
    for target in lora.targets:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            raise DdmakeError(f"lora(targets=): base {settings.base_name} has no module {target!r}. Its linear ones: "
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


def turns_of(row: Mapping[str, Any]) -> tuple[list[dict[str, str]], int]:
    """Return a row's chat messages, and from which of them on the assistant's are learned.

    A row holds `messages`, of which all are, or a `prompt` (a text or messages) and a `completion`, which alone is.
    Raises DdmakeError where the last turn isn't the assistant's.
    """
    if "messages" in row:
        messages, first = [{"role": turn["role"], "content": turn["content"]} for turn in row["messages"]], 0
    else:
        prompt = row["prompt"]
        prompt = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(turn) for turn in prompt]
        messages, first = [*prompt, {"role": "assistant", "content": row["completion"]}], len(prompt)
    if not messages or messages[-1]["role"] != "assistant":
        raise DdmakeError("messages must end with an assistant turn, which is what is learned.")
    return messages, first


def tokenize(rows: datasets.Dataset, encode: Encode, file: Path, names: Sequence[str] = ("input_ids", "labels"),
             learned: Sequence[str] = ("labels",)) -> tuple[datasets.Dataset, Counter]:
    """Return the rows as tokens, kept in a file of the checkpoints' folder, with counts of rows cut and dropped.

    `names` are the columns that an example has, `learned` those among them of which something must be left to learn: a row
    where nothing is, is dropped. The rows' own folder is left alone: `map` by itself would write its cache there.
    """
    counts = Counter(cut=0, dropped=0)

    def encode_batch(batch: dict[str, list]) -> dict[str, list]:
        examples = [encode(dict(zip(batch, values, strict=True))) for values in zip(*batch.values(), strict=True)]
        counts["cut"] += sum(example.pop("cut") for example in examples)
        kept = [example for example in examples
                if all(any(token != IGNORED for token in example[name]) for name in learned)]
        counts["dropped"] += len(examples) - len(kept)
        return {name: [example[name] for example in kept] for name in names}

    file = file.with_stem(f"{file.stem}-{os.environ.get('RANK', '0')}")  # each process writes its own
    file.parent.mkdir(parents=True, exist_ok=True)
    tokens = rows.map(encode_batch, batched=True, batch_size=256, remove_columns=rows.column_names,
                      cache_file_name=str(file), load_from_cache_file=False, new_fingerprint=file.stem)
    if not len(tokens):
        raise DdmakeError(f"no row to train on: {len(rows)} given, {counts['dropped']} of them longer than max_length.")
    return tokens, counts


def cut_batch(settings: Settings) -> tuple[int, int]:
    """Return the examples that a process takes at once, and how many times it does in an optimiser step.

    Raises DdmakeError if the batch can't be cut that way.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    share, rest = divmod(settings.batch_size, processes)
    micro = settings.micro_batch or max(size for size in range(1, min(share, 16) + 1) if share % size == 0)
    if rest or share % micro:
        raise DdmakeError(f"batch_size={settings.batch_size} can't be cut into {processes} processes × micro_batch={micro}.")
    return micro, share // micro


def arguments(settings: Settings, model: torch.nn.Module, examples: int, evaluated: bool,
              checkpoints: Path) -> dict[str, Any]:
    """Return transformers' training arguments, each that matters with a value of our own.

    So a library's new default changes nothing unseen. Checkpoints are asked for by `Saver`.
    """
    micro, accumulation = cut_batch(settings)
    steps = math.ceil(math.ceil(examples / settings.batch_size) * settings.epochs)
    cuda = torch.cuda.is_available()
    return dict(
        output_dir=str(checkpoints), num_train_epochs=settings.epochs, max_steps=-1,
        per_device_train_batch_size=micro, per_device_eval_batch_size=micro, gradient_accumulation_steps=accumulation,
        learning_rate=settings.learning_rate, warmup_steps=settings.warmup, lr_scheduler_type=settings.schedule,
        optim="adamw_torch", adam_beta1=0.9, adam_beta2=0.999, adam_epsilon=1e-8,
        weight_decay=settings.weight_decay, max_grad_norm=settings.max_grad_norm, label_smoothing_factor=0.0,
        seed=settings.seed, data_seed=settings.seed, bf16=half(settings), fp16=False, tf32=None, use_cpu=not cuda,
        dataloader_drop_last=False, dataloader_num_workers=0, dataloader_pin_memory=cuda,
        logging_strategy="steps", logging_steps=max(1, steps // POINTS), logging_first_step=False,
        save_strategy="no", eval_strategy="epoch" if evaluated else "no", report_to="none", disable_tqdm=True,
        push_to_hub=False, auto_find_batch_size=False,
        gradient_checkpointing=cuda and model.num_parameters() > LARGE,
    )


class Teller(TrainerCallback):
    """Tells the progress, and sees to it that the last step is logged too."""

    def __init__(self, progress: Progress):
        self.progress = progress

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs) -> None:
        """Tell where the training begins, or goes on."""
        note = f"resumed after step {state.global_step}" if state.global_step else "begins"
        self.progress(state.global_step, state.max_steps, note)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs) -> None:
        """Have the last step's loss logged."""
        control.should_log = control.should_log or state.global_step >= state.max_steps

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **kwargs) -> None:
        """Tell the loss."""
        if logs and "loss" in logs:
            self.progress(state.global_step, state.max_steps, f"loss {float(logs['loss']):.3f}")


def run(trainer: Trainer, settings: Settings, output: Path, checkpoints: Path, progress: Progress,
        notes: Mapping[str, float]) -> dict[str, float]:
    """Train from the newest sound checkpoint or from the start, fill the model folder, and return the metrics."""
    circumstances = {"threads": torch.get_num_threads(), "processes": trainer.args.world_size,
                     "micro_batch": trainer.args.per_device_train_batch_size}
    sound = newest_sound(checkpoints)
    saver = Saver(checkpoints, circumstances, notes_of(sound, circumstances))
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Teller(progress))
    trainer.add_callback(saver)
    trainer.train(resume_from_checkpoint=str(sound) if sound else None)
    metrics = measure(trainer) | {"runtime_s": round(saver.seconds(), 1)} | dict(notes)
    if trainer.is_world_process_zero():
        save(trainer, settings, output)
        found = metrics | curves(trainer.state.log_history) | {"settings": told(settings, len(trainer.train_dataset))}
        (output / "metrics.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return metrics


def curves(history: Sequence[Mapping[str, float]]) -> dict[str, list[list[float]]]:
    """Return the loss, and of preferences the accuracy and the margin, as `[step, value]`."""
    found: dict[str, list[list[float]]] = {"loss_curve": []}
    for entry in history:
        for logged, name in CURVES.items():
            if logged in entry:
                found.setdefault(f"{name}_curve", []).append([entry["step"], entry[logged]])
    return found


def told(settings: Settings, examples: int) -> dict[str, Any]:
    """Return what a training was made of, for `evaluate` to tell models apart by; how a batch is cut says nothing of that."""
    found = {name: value for name, value in asdict(settings).items() if name not in ("base", "base_name", "peft", "micro_batch")}
    lora = {f"lora_{f.name}": getattr(settings.peft, f.name, None) for f in fields(Lora)}
    return {"base": settings.base_name, "examples": examples, **found, **lora}


def measure(trainer: Trainer) -> dict[str, float]:
    """Return train_loss (the mean over all steps), steps, and the last eval_loss where there is a validation set."""
    history, step = trainer.state.log_history, trainer.state.global_step
    logged = [(entry["step"], entry["loss"]) for entry in history if "loss" in entry]
    before = [0, *(at for at, _ in logged[:-1])]
    loss = sum(value * (at - last) for (at, value), last in zip(logged, before, strict=True)) / max(1, step)
    found = {"train_loss": loss, "steps": step}
    if trainer.eval_dataset is None:
        return found
    if not any("eval_loss" in entry and entry["step"] == step for entry in history):
        trainer.evaluate()
    held = [entry for entry in history if "eval_loss" in entry][-1]
    return found | {f"eval_{name}": held[f"eval_{logged}"] for logged, name in CURVES.items() if f"eval_{logged}" in held}


def save(trainer: Trainer, settings: Settings, output: Path) -> None:
    """Fill the model folder: weights as safetensors, tokenizer, a generation config that stops; no path of this machine."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    writes = hasattr(model, "generation_config")  # a reward model writes no text
    if writes:
        model.generation_config = stopping(model.generation_config, trainer.processing_class)
    output.mkdir(parents=True, exist_ok=True)
    if settings.peft is None:
        model.save_pretrained(output)
    else:
        config = model.peft_config["default"]
        config.base_model_name_or_path, config.revision = settings.base_name, settings.revision
        if isinstance(config.target_modules, set):
            config.target_modules = sorted(config.target_modules)  # a set's order differs from run to run
        # "auto" would ask the Hub for a base of that name
        model.save_pretrained(output, save_embedding_layers=False)
    if writes:
        model.generation_config.save_pretrained(output)
    keep_separator(trainer.processing_class, settings.separator)
    trainer.processing_class.save_pretrained(output)
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
