"""What the trainers of preferences share: answers as tokens, the reference, and evaluating that only watches."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import torch

from ddmake.backends.hf import end_tokens
from ddmake.backends.loading import load_model
from ddmake.trainers.causal import Encoder
from ddmake.trainers.common import IGNORED, Settings, example_length, tokenize
from ddmake.trainers.watching import Watching as Watched

Rows = datasets.Dataset
PAIR = ("prompt_ids", "chosen_ids", "rejected_ids")


class Watching(Watched):
    """Has a TRL trainer take rows that are tokens already."""

    alike = True  # TRL gathers their rewards

    def _prepare_dataset(self, dataset: Rows, processing_class: Any, args: Any, dataset_name: str) -> Rows:
        return dataset


class Answers:
    """Turns a prompt and an answer into tokens, as supervised fine-tuning does."""

    def __init__(self, settings: Settings, model: torch.nn.Module, tokenizer: Any):
        ends = end_tokens(model.generation_config, tokenizer)
        self.encoder = Encoder(tokenizer, ends, settings, example_length(settings, model, tokenizer))

    def made_of(self) -> dict[str, Any]:
        """Return what decides which tokens a row becomes."""
        made_of = self.encoder.made_of()
        return {**made_of, "code": [*made_of["code"], __name__]}

    def of(self, row: Mapping[str, Any], column: str) -> tuple[list[int], list[int], bool]:
        """Return the tokens of the prompt and of the answer in a column, and whether that was cut."""
        found = self.encoder({"prompt": row["prompt"], "completion": row[column]})
        answer = [token for token in found["labels"] if token != IGNORED]
        return found["input_ids"][:len(found["input_ids"]) - len(answer)], answer, found["cut"]

    def pair(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return a pair as tokens; an answer that nothing is left of is empty."""
        prompt, chosen, cut = self.of(row, "chosen")
        _, rejected, also = self.of(row, "rejected")
        return {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected, "cut": cut or also}


def paired(rows: Rows, held: Rows | None, answers: Answers, checkpoints: Path) -> tuple[Rows, Rows | None, dict[str, int]]:
    """Return training and validation pairs as tokens, and the counts of training's: tokens, cut, dropped."""
    given, folder = (PAIR, PAIR[1:], answers.made_of()), checkpoints / "tokens"
    examples, counts = tokenize(rows, answers.pair, folder / "train.arrow", *given)
    watched = tokenize(held, answers.pair, folder / "validation.arrow", *given)[0] if held else None
    prompts, chosen, rejected = (sum(map(len, examples[name])) for name in PAIR)
    return examples, watched, {"tokens": 2 * prompts + chosen + rejected, **counts}


def reference(settings: Settings) -> torch.nn.Module | None:
    """Return a second copy of the base, to measure from; None where the base stays what it is, under an adapter."""
    return load_model(settings.base, settings.revision, "float32") if settings.peft is None else None


def still(model: torch.nn.Module) -> torch.nn.Module:
    """Return a base with its dropout off: by chance alone it would differ from the reference."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if name.endswith("dropout") and isinstance(value, float):  # what attention reads
                setattr(module, name, 0.0)
    return model
