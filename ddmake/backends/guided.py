"""Answers of local models under a JSON schema: tokens that would break it can't be drawn. By llguidance, of the extra `local`.

    guides = Guides(tokenizer, ends, vocabulary)          # one a model; compiles a schema once
    guide = guides.guide(request.schema)                  # one a row; None: ask by `in_words(request)` instead
    bits = guides.blank(len(rows))                        # at each token
    if not guide.fill(bits[at], row.written): ...         # row by row, where a row has a guide
    if guide.ended(row.written): ...                      # the row is whole: "stop"
    forbid(logits, bits)                                  # before temperature, top_k and top_p

Objects are closed to names that a schema doesn't list, as services close them; fields are written in the schema's order. What
llguidance can't hold to (`not`, `uniqueItems`, …) is left to the check that every answer goes through.
"""

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Protocol

import torch

from ddmake.backends import strict
from ddmake.backends.base import Request

MOST = 10**18 - 1  # of a number: a column's integers have 19 digits at most
WRITTEN = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": ", "lenient": True, "coerce_one_of": True}
BITS = 32  # in a word of a mask

Schema = Mapping[str, Any]


class Guide(Protocol):
    """What one row may write next."""

    def fill(self, mask_row: torch.Tensor, written: list[int]) -> bool:
        """Write into a row of `Guides.blank` which tokens may follow those that the row has written so far.

        False where nothing is forbidden: the row is then left as it is.
        """
        ...

    def ended(self, written: list[int]) -> bool:
        """Tell whether what the row has written is whole, and nothing but an end may follow."""
        ...


class Guides:
    """Makes guides for a model: by its tokenizer, its end tokens and the width of its logits."""

    def __init__(self, tokenizer: Any, ends: Sequence[int], vocabulary: int):
        self.vocabulary = max(vocabulary, len(tokenizer))
        self._tokenizer, self._ends = tokenizer, list(ends)
        self._library: Any = None  # llguidance's own view of the tokenizer; False where there is none
        self._compiled: dict[str, Any] = {}  # by schema, with its fields in their order; None where it can't be held to
        self._told: set[str] = set()

    def guide(self, schema: Schema) -> Guide | None:
        """Return a guide for a row that begins; None where the schema can only be asked for in words, which is told once."""
        if self._library is None:
            self._library = self._opened()
        name = json.dumps(schema)
        if name not in self._compiled:
            self._compiled[name] = self._compile(schema) if self._library else None
        matcher = self._compiled[name]
        return None if matcher is None else _Matching(matcher.deep_copy())

    def blank(self, rows: int) -> torch.Tensor:
        """Return a mask that allows all: rows × words of 32 bits, on the CPU."""
        return torch.full((rows, -(-self.vocabulary // BITS)), -1, dtype=torch.int32)

    def _opened(self) -> Any:
        """Return llguidance's view of the tokenizer; False where it isn't installed or doesn't know such a tokenizer."""
        if find_spec("llguidance") is None:
            return self._tell("llguidance isn't installed. Do: pip install 'ddmake[local]'")
        from llguidance.hf import from_tokenizer

        try:
            return from_tokenizer(self._tokenizer, n_vocab=self.vocabulary, eos_token=self._ends or None)
        except (ValueError, RuntimeError, TypeError) as error:
            return self._tell(f"llguidance can't read this tokenizer: {error}")

    def _compile(self, schema: Schema) -> Any:
        """Return what each row's guide is copied from; None where the library, or the tokenizer, can't write such JSON."""
        from llguidance import LLMatcher

        matcher = LLMatcher(self._library, LLMatcher.grammar_from_json_schema(json.dumps(bounded(schema)), overrides=WRITTEN),
                            log_level=0)
        if matcher.is_error():
            return self._tell(f"llguidance can't hold to this schema: {matcher.get_error()}") or None
        if not any(matcher.compute_bitmask()):
            return self._tell("the tokenizer has no token to begin such JSON") or None
        return matcher

    def _tell(self, reason: str) -> bool:
        """Say in the job's log, once, why JSON is only asked for; return False."""
        if reason not in self._told:
            self._told.add(reason)
            print(f"JSON is asked for in the prompt and checked, not enforced: {reason}", flush=True)
        return False


class _Matching:
    """A Guide that follows what a row has written."""

    def __init__(self, matcher: Any):
        self._matcher, self._seen = matcher, 0
        self._whole: int | None = None  # how many tokens it took to be whole: a stride looks ahead of what its row has taken

    def fill(self, mask_row: torch.Tensor, written: list[int]) -> bool:
        self._follow(written)
        if self._matcher.is_error():  # a limit of the library's: the check of the answer decides
            return False
        self._matcher.unsafe_compute_mask_ptr(mask_row.data_ptr(), mask_row.numel() * mask_row.element_size())
        return True

    def ended(self, written: list[int]) -> bool:
        self._follow(written)
        return self._whole is not None and len(written) >= self._whole

    def _follow(self, written: list[int]) -> None:
        new = written[self._seen:]
        self._matcher.consume_tokens(new)
        self._seen += len(new)
        if self._whole is None and self._matcher.is_stopped() and not self._matcher.is_error():
            self._whole = self._seen


def forbid(logits: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    """Put what a mask doesn't allow out of reach, in place: logits are rows × vocabulary, the mask as `Guides.blank` made it."""
    words = bits.to(logits.device, non_blocking=True)
    allowed = words.unsqueeze(-1) >> torch.arange(BITS, dtype=torch.int32, device=logits.device) & 1
    return logits.masked_fill_(allowed.flatten(1)[:, :logits.shape[1]] == 0, float("-inf"))


def in_words(request: Request) -> tuple[Mapping[str, Any], ...]:
    """Return a request's messages with its schema told in the last of them, for a row that has no guide."""
    *before, last = request.messages
    told, content = strict.in_words(request.schema), last["content"]
    more = f"{content}\n\n{told}" if isinstance(content, str) else [*content, {"type": "text", "text": told}]
    return (*before, {**last, "content": more})


def bounded(schema: Any) -> Any:
    """Return a schema whose objects are closed and whose numbers have an end: a model could write digits for ever."""
    if isinstance(schema, list):
        return [bounded(one) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    found = {word: _bounded(word, value) for word, value in schema.items()}
    if "properties" in found and "patternProperties" not in found:
        found.setdefault("additionalProperties", False)
    kinds = found.get("type", ())
    if {"integer", "number"} & set([kinds] if isinstance(kinds, str) else kinds) and "enum" not in found:
        if "exclusiveMinimum" not in found:
            found["minimum"] = max(found.get("minimum", -MOST), -MOST)
        if "exclusiveMaximum" not in found:
            found["maximum"] = min(found.get("maximum", MOST), MOST)
    return found


def _bounded(word: str, value: Any) -> Any:
    """Return what stands behind a word of a schema, bounded; the values that a choice is of stay as they are."""
    if word in strict.MAPS:
        return {name: bounded(one) for name, one in value.items()}
    return value if word in ("enum", "const", "required", "type") else bounded(value)
