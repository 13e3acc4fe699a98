"""Embedding models, on sentence-transformers' trainer: texts that belong together are moved near each other."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import peft
import torch
import transformers
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.sentence_transformer.evaluation import SentenceEvaluator
from torch.nn import functional
from torch.utils.data import SequentialSampler

from ddmake.backends.encoders import knows_words, positions
from ddmake.backends.models import is_adapter
from ddmake.errors import DdmakeError
from ddmake.trainers import best
from ddmake.trainers.common import Progress, Settings, arguments, cut_batch, hush, lora_config, run
from ddmake.trainers.watching import Watching

Rows = datasets.Dataset
AT_ONCE = 64  # texts of a column, unless micro_batch says otherwise
BLOCK = 1000  # texts that are compared or counted at once
WEIGHTS = "weights.safetensors"  # in a checkpoint: those that are trained
ABOUT = "config_sentence_transformers.json"
TOGETHER = ("ranking", "cosent")  # losses that compare what is in a batch: that is taken as a whole


@dataclass(frozen=True)
class Placing(Settings):
    """What such a training is made of."""

    max_length: int | None = None  # None: as the base has it
    loss: str = "ranking"
    scale: float = 20.0
    margin: float = 0.2


def train(rows: Rows, validation: Rows | None, settings: Placing, output: Path, checkpoints: Path,
          progress: Progress) -> dict[str, float]:
    """Learn from rows of two texts or more, and of a `score` for some losses, and return the metrics.

    Raises DdmakeError for a base that is none, and a batch that can't be cut.
    """
    hush()
    model = load(settings)
    counts = counted(rows, model)
    model = adapted(model, settings)
    evaluator = None if validation is None else Held(validation)
    trainer = trainer_of(model, rows, validation, settings, checkpoints, evaluator)
    notes = {"tokens": int(counts["tokens"] * settings.epochs), "cut": counts["cut"]}
    return run(trainer, settings, output, checkpoints, progress, notes, saves=save)


def load(settings: Settings) -> SentenceTransformer:
    """Load a base in float32; a plain encoder's vectors become the means of its tokens'. Raises DdmakeError for what is none."""
    if is_adapter(settings.base):
        raise DdmakeError(f"base {settings.base_name} is an adapter alone, and an embedder begins with a whole model. Give the "
                          "model that it was made on, or one of all weights.")
    transformers.set_seed(settings.seed)
    try:
        model = SentenceTransformer(str(settings.base), revision=settings.revision, device="cpu",
                                    model_kwargs={"dtype": torch.float32})
    except (OSError, ValueError, RuntimeError) as error:
        raise DdmakeError(f"base {settings.base_name} can't be made an embedder: {str(error).splitlines()[0]}") from error
    if not hasattr(model[0], "auto_model") or not knows_words(model.tokenizer):
        raise DdmakeError(f"base {settings.base_name} has no transformer with a tokenizer to train. Give another.")
    tokenizer = model.tokenizer
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    limits = (settings.max_length, model.max_seq_length, positions(model[0].auto_model))
    model.max_seq_length = min((limit for limit in limits if limit), default=None)
    return model


def adapted(model: SentenceTransformer, settings: Settings) -> SentenceTransformer:
    """Return the model with a fresh adapter on its transformer, if one is asked for."""
    config = lora_config(settings.peft, "FEATURE_EXTRACTION")
    if config is not None:
        transformers.set_seed(settings.seed)  # again: loading may have drawn
        model[0].model = peft.get_peft_model(model[0].auto_model, config)
    return model


def counted(rows: Rows, model: SentenceTransformer) -> dict[str, int]:
    """Return how many tokens the texts have, as far as they are read, and how many rows have one that is cut."""
    limit, tokens, cut = model.max_seq_length or math.inf, 0, 0
    texts = [name for name, feature in rows.features.items() if getattr(feature, "dtype", None) in ("string", "large_string")]
    for start in range(0, len(rows), BLOCK):
        block = rows[start:start + BLOCK]
        lengths = [[len(ids) for ids in model.tokenizer(block[name])["input_ids"]] for name in texts]
        tokens += sum(min(length, limit) for column in lengths for length in column)
        cut += sum(any(length > limit for length in row) for row in zip(*lengths))
    return {"tokens": int(tokens), "cut": cut}


def trainer_of(model: SentenceTransformer, rows: Rows, validation: Rows | None, settings: Placing, checkpoints: Path,
               evaluator: SentenceEvaluator | None = None) -> "Training":
    """Return a trainer of a loss that is taken on the whole batch, or cut up, as the loss is."""
    told = arguments(settings, model[0].auto_model, len(rows), validation is not None, checkpoints)
    micro = cut_batch(settings)[0]
    if settings.loss in TOGETHER:
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        if settings.loss == "cosent" and processes > 1:
            raise DdmakeError(f'loss="cosent" compares the pairs of a batch, and each of {processes} processes would see a part. '
                              'Train in one process, or take loss="cosine".')
        whole = settings.batch_size // processes
        micro = settings.micro_batch or min(whole, AT_ONCE)
        told |= {"per_device_train_batch_size": whole, "per_device_eval_batch_size": whole, "gradient_accumulation_steps": 1}
    # a text that stands twice in a batch would be a wrong answer to its own question
    told |= {"batch_sampler": "no_duplicates" if settings.loss == "ranking" else "batch_sampler"}
    config = SentenceTransformerTrainingArguments(**told)
    config.dataloader_drop_last = False  # is turned on for several processes, whose share of what is left we see to
    trainer = Training(model=model, args=config, train_dataset=rows, eval_dataset=validation, evaluator=evaluator,
                       loss=loss_of(model, settings, micro))
    trainer.together = settings.loss == "ranking"
    return trainer


def loss_of(model: SentenceTransformer, settings: Placing, micro: int) -> torch.nn.Module:
    """Return a loss by its name; the one on in-batch negatives takes so many texts at once, and sees all of a batch."""
    if settings.loss == "cosent":
        return losses.CoSENTLoss(model, scale=settings.scale)
    if settings.loss == "cosine":
        return losses.CosineSimilarityLoss(model)
    if settings.loss == "triplet":
        return losses.TripletLoss(model, distance_metric=losses.TripletDistanceMetric.COSINE, triplet_margin=settings.margin)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if micro < settings.batch_size // processes:
        return losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=micro, scale=settings.scale)
    return losses.MultipleNegativesRankingLoss(model, scale=settings.scale)


class Training(Watching, SentenceTransformerTrainer):
    """sentence-transformers' trainer, whose checkpoints hold the weights that are trained, and no card."""

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Add none: cards are written elsewhere."""

    def get_batch_sampler(self, dataset: Rows, batch_size: int, drop_last: bool, valid_label_columns: list[str] | None = None,
                          generator: torch.Generator | None = None, seed: int = 0) -> Any:
        """Return how batches are drawn; those of validation rows are always the same, and full but for the last."""
        batch_size *= self.args.world_size if self.together else 1
        if dataset is self.eval_dataset:
            return DefaultBatchSampler(SequentialSampler(dataset), batch_size=batch_size, drop_last=False)
        return super().get_batch_sampler(dataset, batch_size, drop_last, valid_label_columns, generator, seed)

    def compute_loss(self, model: torch.nn.Module, inputs: dict[str, Any], return_outputs: bool = False,
                     num_items_in_batch: Any = None) -> Any:
        """Return the loss of a batch, of which each process learns a share; one that is evaluated is whole in one process."""
        if self.together:
            self.loss.gather_across_devices = self.model.training and self.args.world_size > 1
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        best.keep(self.model, Path(output_dir) / WEIGHTS, writes=True)

    def _load_from_checkpoint(self, checkpoint_path: str) -> None:
        best.put_back(self.model, Path(checkpoint_path) / WEIGHTS)


class Held(SentenceEvaluator):
    """Measures vectors on rows that aren't learned from.

    Of pairs the share of anchors that are nearest to their own positive, among the other texts of all rows; of scored pairs
    how well the order of cosines goes with that of scores, by Spearman's coefficient.
    """

    def __init__(self, rows: Rows):
        super().__init__()
        self.rows = rows

    def __call__(self, model: SentenceTransformer, output_path: str | None = None, epoch: float = -1,
                 steps: int = -1) -> dict[str, float]:
        """Return the measure by its name."""
        names = [name for name in self.rows.column_names if name != "score"]
        vectors = [encoded(model, self.rows[name]) for name in names]
        if "score" in self.rows.column_names:
            cosines = (vectors[0] * vectors[1]).sum(1)
            return {"spearman": float(spearmanr(cosines, self.rows["score"]).statistic)}
        texts = [text for name in names[1:] for text in self.rows[name]]
        return {"accuracy": nearest(vectors[0], torch.cat(vectors[1:]), texts)}


def encoded(model: SentenceTransformer, texts: Sequence[str]) -> torch.Tensor:
    """Return the vectors of texts, of length 1."""
    found = model.encode(list(texts), convert_to_tensor=True, show_progress_bar=False)
    return functional.normalize(found.float().cpu(), dim=1)


def nearest(anchors: torch.Tensor, others: torch.Tensor, texts: Sequence[str]) -> float:
    """Return the share of anchors whose nearest text is that of their own row."""
    right = 0
    for start in range(0, len(anchors), BLOCK):
        found = (anchors[start:start + BLOCK] @ others.T).argmax(1).tolist()
        right += sum(texts[place] == texts[start + number] for number, place in enumerate(found))
    return right / len(anchors)


def save(trainer: Training, settings: Settings, output: Path, whole: Mapping[str, torch.Tensor] | None = None) -> None:
    """Fill the model folder; an adapter is merged, so that the folder needs no other."""
    write(trainer.accelerator.unwrap_model(trainer.model), output)


def write(model: SentenceTransformer, output: Path) -> None:
    """Write a model as sentence-transformers does, without a card and without versions of libraries."""
    if isinstance(model[0].auto_model, peft.PeftModel):
        model[0].model = model[0].auto_model.merge_and_unload(safe_merge=True)
    output.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(str(output), create_model_card=False)
    about = output / ABOUT
    told = json.loads(about.read_text(encoding="utf-8"))
    told.pop("__version__", None)
    about.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
