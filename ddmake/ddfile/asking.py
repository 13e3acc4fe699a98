"""What a recipe means to ask an llm or an embedder: told before it runs (`asks=`), for dry runs, previews and lint.

The recipe uses it, too, when it runs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


class NotYet(Exception):
    """Prompts aren't known before something else is done, as it is once the rule runs."""


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
    labels: Sequence[str] | None = None  # those among which `choose` is to choose


@dataclass(frozen=True)
class Embedding:
    """One pass over an embedder: the texts that it is to make vectors of, and the rows that hold them, which may be a part."""

    embedder: Any
    texts: Iterable[str]
    rows: Any = None


@dataclass(frozen=True)
class Tuning:
    """A training that a service is to do: what it learns from, written, how often it reads that, and its price if it is known."""

    llm: Any
    texts: Iterable[str]
    epochs: int
    price: float | None = None  # dollars for a million tokens
