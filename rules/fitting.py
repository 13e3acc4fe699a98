"""Prompts that show as much as an llm takes: examples, or texts that were found."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ddmake.rules.retrieval import retrieve
from ddmake.rules.wording import Turn

if TYPE_CHECKING:
    import pyarrow as pa

    from ddmake.calls.context import Context

Row = Mapping[str, Any]
Says = Callable[[int], list[Turn]]  # the prompt that shows so many


@dataclass
class Fitting:
    """Finds how much each prompt can show. The last one's number is where the next search begins, since rows are much alike."""

    context: "Context"
    least: int  # what is shown even where it doesn't fit: the model then says so
    last: int | None = None

    def most(self, says: Says, there: int) -> int:
        """Return how many of those that are there a prompt can show, if it grows with each."""
        low, high = min(self.least, there), there + 1  # what counts as fitting, and what doesn't
        near = [there] if self.last is None else [self.last + 1, self.last]
        while high - low > 1:
            at = next((one for one in [near.pop()] if low < one < high), None) if near else (low + high) // 2
            if at is None:
                continue
            low, high = (at, high) if self._fits(says, at) else (low, at)
        self.last = low
        return low

    def _fits(self, says: Says, number: int) -> bool:
        return number <= self.least or self.context.takes(says(number))


def nearest(queries: Any, documents: Any, *, embedder: Any, k: int, query: str = "text", text: str = "text",
            embedding: str = "embedding") -> "pa.Table":
    """Return for each query the numbers of the k nearest documents, `ids`, and their `scores`; the nearest first."""
    import pyarrow as pa

    found = retrieve.function(queries, documents, embedder=embedder, k=k, query=query, text=text, embedding=embedding)
    return pa.Table.from_batches([batch.select(["ids", "scores"]) for batch in found])
