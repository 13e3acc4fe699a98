"""Opening models that tell labels or numbers of texts: whole classifiers, LoRA adapters of such, and embedders with a head."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging

from ddmake.backends.encoders import knows_words
from ddmake.backends.hub import pinned_base
from ddmake.backends.loading import load_model, load_tokenizer, put_on
from ddmake.backends.models import ADAPTER, is_adapter, need, read_json
from ddmake.errors import DdmakeError

HEAD = "ForSequenceClassification"  # what the classes of such models are named like
HEADS = ("classifier", "score")  # what such a model's head is named, as peft has it
TASK = "SEQ_CLS"  # what peft calls adapters of such
ONE, SEVERAL = "single_label_classification", "multi_label_classification"  # kinds of models, as transformers calls them
LABELS = "labels.json"  # in a folder whose config has no place for them: labels by name, and whether several may hold of a text
MODULES = "modules.json"  # in the folders of sentence-transformers
LAST = ("xlnet",)  # kinds that read their answer at a row's end, and so take padding in front


def opened(folder: Path, dtype: torch.dtype, use: str) -> tuple[torch.nn.Module, Any]:
    """Return a model with its tokenizer; its config has its labels. Raises DdmakeError for what was trained for another use."""
    folder = Path(folder)
    try:
        if (folder / MODULES).is_file() and (folder / LABELS).is_file():
            return _embedding(folder, dtype, use)
        with _quietly():
            model = _of_adapter(folder, dtype, use) if is_adapter(folder) else _whole(folder, dtype, use)
        tokenizer = load_tokenizer(folder)
    except (OSError, ValueError, RuntimeError) as error:
        raise DdmakeError(f"{use}: {folder} holds no model that can be loaded: {str(error).splitlines()[0]}") from None
    if not knows_words(tokenizer):
        raise DdmakeError(f"{use}: {folder} holds no tokenizer, or one without words. Put the model's tokenizer beside it.")
    # whatever the tokenizer was saved with: padding in front would move the text's positions, and so its label with its batch
    tokenizer.padding_side = "left" if model.config.model_type in LAST else "right"
    return model.eval(), tokenizer


@contextmanager
def _quietly() -> Iterator[None]:
    """Leave out transformers' report of weights that a base lacks and an adapter brings, and its bars."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def is_several(config: Any) -> bool:
    """Tell whether several of a model's labels may hold of one text."""
    return config.problem_type == SEVERAL


def _whole(folder: Path, dtype: torch.dtype, use: str) -> torch.nn.Module:
    """Load a model of all weights. Raises DdmakeError for one without a head."""
    kinds = read_json(folder, "config.json").get("architectures") or []
    if not any(HEAD in kind for kind in kinds):
        what = f"it is a {kinds[0]}" if kinds else "its config.json names no architecture"
        raise DdmakeError(f"{use}: {folder} holds no sequence classifier: {what}. Give a model that was trained to classify.")
    model, found = AutoModelForSequenceClassification.from_pretrained(str(folder), dtype=dtype, output_loading_info=True)
    _need_all(folder, found["missing_keys"], use)
    return model


def _need_all(folder: Path, missing: set[str], use: str) -> None:
    if missing:
        raise DdmakeError(f"{use}: {folder} lacks the weights {', '.join(sorted(missing))}, without which labels would be drawn "
                          "at random. Give a model that was trained to classify.")


def _of_adapter(folder: Path, dtype: torch.dtype, use: str) -> torch.nn.Module:
    """Load an adapter with its head, on the base that it names. Raises DdmakeError for an adapter of another kind of model."""
    need("peft", "local", "a model with a LoRA adapter")
    from peft.utils import load_peft_weights

    task = read_json(folder, ADAPTER).get("task_type")
    if task != TASK:
        raise DdmakeError(f"{use}: {folder} holds no sequence classifier: it is an adapter of the kind {task}. Give a model that "
                          "was trained to classify.")
    weights = load_peft_weights(str(folder), device="cpu")
    brought = {name.removeprefix("base_model.model."): weight for name, weight in weights.items()}
    head = [weight for name, weight in brought.items() if name.partition(".")[0] in HEADS and name.endswith("weight")]
    if not head:
        raise DdmakeError(f"{use}: the adapter {folder} brings no head, without which labels would be drawn at random. Give one "
                          "that was saved with its head.")
    (base, revision), told = pinned_base(folder), read_json(folder, LABELS)
    names = told.get("labels") or [f"LABEL_{number}" for number in range(head[-1].shape[0])]
    config = dict(id2label=dict(enumerate(names)), label2id={name: number for number, name in enumerate(names)},
                  problem_type=SEVERAL if told.get("several") else None)
    model, missing = _base(base, revision, dtype, config)
    _need_all(folder, missing - brought.keys(), use)
    return put_on(model, folder)


def _base(base: Path | str, revision: str | None, dtype: torch.dtype, told: dict[str, Any]) -> tuple[torch.nn.Module, set[str]]:
    """Return a base as a classifier, and the names of the weights that it lacks; an adapter under an adapter is merged."""
    if not is_adapter(base):
        model, found = AutoModelForSequenceClassification.from_pretrained(
            str(base), revision=revision, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **told)
        return model, {*found["missing_keys"], *(key[0] for key in found["mismatched_keys"])}
    writer = load_model(base, revision, str(dtype).removeprefix("torch."))
    config = deepcopy(writer.config)
    config.update(told)
    model = AutoModelForSequenceClassification.from_config(config, dtype=dtype)
    setattr(model, model.base_model_prefix, getattr(writer, model.base_model_prefix))
    return model, {name for name, _ in model.named_parameters() if not name.startswith(f"{model.base_model_prefix}.")}


class Headed(torch.nn.Module):
    """An embedder of sentence-transformers whose last module makes labels' numbers of vectors, asked as a classifier is."""

    def __init__(self, embedder: torch.nn.Module, config: Any):
        super().__init__()
        self.embedder, self.config = embedder, config

    @property
    def device(self) -> torch.device:
        """Return where the weights are."""
        return self.embedder.device

    def forward(self, **tokens: torch.Tensor) -> Any:
        """Return the logits of texts."""
        return SimpleNamespace(logits=self.embedder(dict(tokens))["sentence_embedding"])


def _embedding(folder: Path, dtype: torch.dtype, use: str) -> tuple[torch.nn.Module, Any]:
    need("sentence_transformers", "local", use)
    from sentence_transformers import SentenceTransformer

    told = read_json(folder, LABELS)
    embedder = SentenceTransformer(str(folder), model_kwargs={"dtype": dtype}, device="cpu").to(dtype).eval()
    tokenizer = embedder.tokenizer
    tokenizer.model_max_length = min(tokenizer.model_max_length, embedder.max_seq_length or tokenizer.model_max_length)
    names = told["labels"]
    config = SimpleNamespace(num_labels=len(names), id2label=dict(enumerate(names)), model_type="", pad_token_id=None,
                             problem_type=SEVERAL if told["several"] else ONE)
    return Headed(embedder, config), tokenizer
