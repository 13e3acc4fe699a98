"""What a recipe means to ask an llm: told before it runs (`asks=`), for dry runs, previews and lint, and used when it runs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Prompt = str | Sequence[Mapping[str, Any]]  # text, or chat messages


@dataclass(frozen=True)
class Asking:
    """One pass over an llm: the prompts in their order, and what goes with each of them.

    `llm` is what the recipe is given: opened, or its spec where nothing is asked yet.
    """

    llm: Any
    prompts: Iterable[Prompt]
    schema: Mapping[str, Any] | None = None  # a JSON schema
    tools: Sequence[Mapping[str, Any]] | None = None
