"""A causal model as a policy: how likely it and its reference find answers, and a head that guesses what is to come."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch.nn import functional

from ddmake.trainers.common import half
from ddmake.trainers.online import Online, Stops, padded, precision, takes

Tensor = torch.Tensor
Tokens = Sequence[list[int]]


class Policy:
    """A model with a value head, and the reference that it is measured from: a second copy, or the base under the adapter."""

    def __init__(self, model: torch.nn.Module, reference: torch.nn.Module | None, settings: Online, stops: Stops):
        self.model, self.reference, self.stops, self.temperature = model, reference, stops, settings.temperature
        self.half, self.takes = half(settings), takes(model)
        self.head = torch.nn.Linear(model.config.get_text_config().hidden_size, 1).to(model.device)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)

    def learned(self) -> dict[str, torch.nn.Parameter]:
        """Return the parameters that are trained, by name."""
        of_model = {f"policy.{name}": value for name, value in self.model.named_parameters() if value.requires_grad}
        return of_model | {f"value.{name}": value for name, value in self.head.named_parameters()}

    def tell(self, prompts: Tokens, answers: Tokens) -> tuple[Tensor, Tensor]:
        """Return the log-probability of each token of answers, and the value before it: answers × tokens."""
        logits, hidden = self._read(self.model, prompts, answers, hidden=True)
        return self._likely(logits, answers), self.head(hidden.float()).squeeze(-1)

    def refer(self, prompts: Tokens, answers: Tokens) -> Tensor:
        """Return the log-probability of each token of answers by the reference."""
        with torch.no_grad(), nullcontext() if self.reference is not None else self.model.disable_adapter():
            return self._likely(self._read(self.reference or self.model, prompts, answers)[0], answers)

    def _likely(self, logits: Tensor, answers: Tokens) -> Tensor:
        told, mask = padded(answers, self.stops.pad, logits.device, left=False)
        return -functional.cross_entropy((logits.float() / self.temperature).transpose(1, 2), told, reduction="none") * mask

    def _read(self, model: torch.nn.Module, prompts: Tokens, answers: Tokens, hidden: bool = False) -> tuple[Tensor, Any]:
        """Return the logits, and the last hidden states perhaps, from which each token of answers is told."""
        before, attended = padded(prompts, self.stops.pad, model.device, left=True)
        told, answering = padded(answers, self.stops.pad, model.device, left=False)
        mask, width = torch.cat([attended, answering], 1), told.shape[1]
        given: dict[str, Any] = {"input_ids": torch.cat([before, told], 1), "attention_mask": mask, "use_cache": False}
        if "position_ids" in self.takes:
            given["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        if "logits_to_keep" in self.takes:
            given["logits_to_keep"] = width + 1
        with precision(model, self.half):
            out = model(**given, output_hidden_states=hidden)
        return out.logits[:, -width - 1:-1], out.hidden_states[-1][:, -width - 1:-1] if hidden else None
