"""Evaluating as a training goes on: means over all that is held out, whatever is taken at once and by whichever process.

transformers and TRL take means of batches' means, in which the few examples of the last batch count for as much as the many
of another, and one long example for as much as a short one. Here each batch tells how many items its means are of, tokens or
examples, and sums are taken over batches and processes.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers.trainer_pt_utils import find_batch_size
from transformers.trainer_utils import EvalLoopOutput

from ddmake.trainers import ranks
from ddmake.trainers.sums import total
from ddmake.trainers.tokens import IGNORED

Inputs = Mapping[str, Any]
Means = dict[str, Any]  # numbers, or tensors of one
Weighed = dict[str, tuple[Any, int]]  # means, each with how many items it is of


def examples(inputs: Inputs) -> int:
    """Return how many examples are in a batch; of pairs twice as many, which comes to the same."""
    return find_batch_size(inputs)


def label_tokens(inputs: Inputs) -> int:
    """Return how many tokens of a batch are learned."""
    return int((inputs["labels"] != IGNORED).sum())


def next_tokens(inputs: Inputs) -> int:
    """Return how many tokens of a batch are learned where each is foretold by the one before: the first isn't."""
    return int((inputs["labels"][:, 1:] != IGNORED).sum())


class Evaluating:
    """A trainer of transformers that evaluates each example once, and without drawing on chance."""

    items = staticmethod(examples)  # what the loss is a mean of

    def evaluate(self, eval_dataset: Any = None, ignore_keys: list[str] | None = None,
                 metric_key_prefix: str = "eval") -> dict[str, float]:
        """Evaluate as the trainer does, and put the random state back."""
        with torch.random.fork_rng():
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Return the batches to evaluate on, which are those that one process alone would take."""
        return ranks.whole(super().get_eval_dataloader(eval_dataset))

    def evaluation_loop(self, dataloader: DataLoader, description: str, prediction_loss_only: bool | None = None,
                        ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval") -> EvalLoopOutput:
        """Evaluate as the trainer does, and put means over all items in place of its own."""
        self.seen: list[Weighed] = []
        with ranks.apart(self.accelerator):
            output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        found = self.concluded(means_of(self.seen, ranks.own(dataloader)))
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in found.items()})
        return output

    def prediction_step(self, model: torch.nn.Module, inputs: dict[str, Any], prediction_loss_only: bool,
                        ignore_keys: list[str] | None = None) -> tuple[torch.Tensor, None, None]:
        """Return the loss of a batch, and keep it with what else is noted of that."""
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, self._prepare_inputs(inputs)).detach()
        noted = {name: values[-1] for name, values in self.notes().items()}
        self.notes().clear()  # TRL would log the means of them
        self.seen.append(self.weighed(inputs, {"loss": loss, **noted}))
        return loss, None, None

    def notes(self) -> dict[str, list[Any]]:
        """Return what is noted of batches, of those that are evaluated or of those that are learned; TRL has such notes."""
        kept = self.__dict__.setdefault("_metrics", {"train": defaultdict(list), "eval": defaultdict(list)})
        return kept["train" if self.model.training else "eval"]

    def weighed(self, inputs: Inputs, means: Means) -> Weighed:
        """Return the means of a batch, each with how many items it is of; all batches have the same ones."""
        count = self.items(inputs)
        return {name: (value, count) for name, value in means.items()}

    def concluded(self, means: dict[str, float]) -> dict[str, float]:
        """Return what is told of an evaluation, given means over all items."""
        return means


def means_of(batches: Sequence[Weighed], own: int) -> dict[str, float]:
    """Return means over what all processes have seen, of which each gives its first `own` batches; none of what is nowhere."""
    names = sorted(batches[0])
    values, counts = (torch.tensor([[float(batch[name][part]) for name in names] for batch in batches], dtype=torch.float64)
                      for part in (0, 1))
    sums, counts = total(torch.stack([(values * counts)[:own].sum(0), counts[:own].sum(0)])).tolist()
    return {name: value / count for name, value, count in zip(names, sums, counts, strict=True) if count}
