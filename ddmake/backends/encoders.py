"""What models that read texts and write none have in common, be they classifiers or embedders."""

from typing import Any

import torch


def knows_words(tokenizer: Any) -> bool:
    """Tell whether a tokenizer has more than special tokens, which is all that transformers makes where there are no files."""
    special = getattr(tokenizer, "all_special_ids", None)
    return special is None or len(tokenizer) > len(set(special))


def positions(model: torch.nn.Module) -> int | None:
    """Return how many tokens a model has positions for; None where it has no such limit, as T5, which counts distances.

    RoBERTa and its kin begin to count behind their padding's number.
    """
    for name, part in model.named_modules():
        if name.endswith("position_embeddings") and getattr(part, "padding_idx", None) is not None:
            return part.num_embeddings - part.padding_idx - 1
    return getattr(model.config, "max_position_embeddings", None)
