"""How much an llm takes: the tokens that a prompt may have beside its answer, and whether a prompt has no more.

A local model's own tokenizer counts. A service's context is looked up in contexts.json, which scripts/prices.py makes of what
litellm knows; its tokens are estimated, and a tenth of the context is left free, since they may be some percent more. Nothing
is loaded or asked, and the same prompt is always counted alike.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ddmake.backends import local_model, providers
from ddmake.backends.models import read_json
from ddmake.backends.unopened import FindFile, finder
from ddmake.calls import prices, tokens
from ddmake.ddfile.specs import LLM, Mixture

TABLE = Path(__file__).with_name("contexts.json")
HERE, THERE = 256, 1024  # tokens of an answer where the llm doesn't say: of a local model, of a service
NO_LIMIT = 1 << 20  # tokenizers without a limit claim 1e30
SHARE = 0.9  # of a service's context that is filled
WRAPPING = 100  # tokens for what a chat template puts before a conversation
A_TURN = 8  # and around each turn


@dataclass(frozen=True)
class Context:
    """The tokens that a prompt may have, None where that isn't known, and what counts those of a text."""

    room: int | None
    count: Callable[[str], int]

    def takes(self, turns: Sequence[Mapping[str, Any]]) -> bool:
        """Tell whether a prompt leaves room for its answer; pictures aren't counted."""
        if self.room is None:
            return True
        texts = [text for turn in turns for text in _texts(turn["content"])]
        around = WRAPPING + A_TURN * len(turns)
        if around + sum(len(text.encode("utf-8", "replace")) for text in texts) <= self.room:
            return True  # a token has a byte or more
        return around + sum(map(self.count, texts)) <= self.room


class Contexts(tuple[Context, ...]):
    """The contexts of the llms of a mixture, any of which may be given a prompt."""

    def takes(self, turns: Sequence[Mapping[str, Any]]) -> bool:
        """Tell whether a prompt leaves each of them room for its answer."""
        return all(one.takes(turns) for one in self)


def context_of(llm: Any, given: int | None = None) -> Context | Contexts:
    """Return what an opened llm takes, or one that is described; `given` says how many tokens its context has."""
    spec = getattr(llm, "spec", llm)
    if isinstance(spec, Mixture):
        return Contexts(context_of(member, given) for member in llm.members)
    file = getattr(getattr(llm, "backend", None), "file", None) or _file_of(spec)
    if file is None:
        window = given or _table().get(prices.listed_name(spec) or "")
        return Context(window and int(window * SHARE) - (spec.max_tokens or THERE), tokens.of_text)
    window = given or _window(file)
    tokenizer = file("tokenizer.json")
    count = tokens.of_text if tokenizer is None else lambda text: len(_tokenizer(tokenizer).encode(text).ids)
    answer = spec.max_tokens or _json(file("generation_config.json")).get("max_new_tokens") or HERE
    return Context(window and window - answer, count)


def _file_of(spec: LLM) -> FindFile | None:
    """Return what finds a local model's files where it isn't opened; None for a service, and for one on the Hub."""
    model = local_model(spec) if providers.road(spec) == "local" else None
    return finder(model, None, lambda name, revision, file: None) if isinstance(model, Path) else None


def _window(file: FindFile) -> int | None:
    """Return the tokens that a local model takes: its positions, else its tokenizer's limit, as backends/hf.py has it."""
    config = _json(file("config.json"))
    positions = {**config, **config.get("text_config", {})}.get("max_position_embeddings")
    limit = _json(file("tokenizer_config.json")).get("model_max_length")
    return positions or (int(limit) if limit and limit < NO_LIMIT else None)


def _json(path: Path | None) -> dict[str, Any]:
    return {} if path is None else read_json(path.parent, path.name)


def _texts(content: Any) -> Iterator[str]:
    """Yield the texts of a turn."""
    parts = [content] if isinstance(content, str) or content is None else [part.get("text") for part in content]
    yield from (part for part in parts if part)


@cache
def _tokenizer(path: Path) -> Any:
    from tokenizers import Tokenizer

    found = Tokenizer.from_file(str(path))
    found.no_truncation()
    return found


@cache
def _table() -> Mapping[str, int]:
    return json.loads(TABLE.read_text(encoding="utf-8"))["models"]
