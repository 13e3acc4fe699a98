"""Counting the texts that a rule would send to an embedder over a network: those whose vectors aren't known."""

from contextlib import closing
from dataclasses import dataclass, field, replace

from ddmake.backends import embedders
from ddmake.calls import prices, tokens
from ddmake.calls.cache import Calls
from ddmake.calls.embedding import OpenedEmbedder
from ddmake.ddfile.asking import Embedding
from ddmake.engine.estimate import Estimate
from ddmake.store import Store

SAMPLE = 200  # texts whose tokens are counted, where no call tells of them


@dataclass
class Tally:
    """What would be sent to an embedder in one pass."""

    texts: int = 0
    send: int = 0
    characters: int = 0
    first: list[str] = field(default_factory=list)


def estimate(store: Store, label: str, asking: Embedding, share: float, seen: set[bytes]) -> Estimate:
    """Return what a rule's pass comes to on all rows, of which `share` was looked at. `seen` is as `counting.count` has it."""
    opened: OpenedEmbedder = asking.embedder
    tally, price = _tally(asking, seen), prices.price_of(embedders.as_llm(opened.spec))
    send = round(tally.send / share)
    found = Estimate(round(tally.texts / share), send, tokens_in=0, tokens_out=0, dollars=0.0, rough=share < 1,
                     prices=price and price.date)
    if not send:
        return found
    with closing(Calls(store.folder)) as calls:
        rate = tokens.of_texts(calls.db, str(opened.spec.name), label, tally.first)
    tokens_in = round(rate * tally.characters / share)
    return replace(found, tokens_in=tokens_in, dollars=prices.cost(price, tokens_in, 0), unpriced=price is None)


def _tally(asking: Embedding, seen: set[bytes]) -> Tally:
    """Look up each text of a pass; equal ones are sent once."""
    tally, opened = Tally(), asking.embedder
    seen = seen if opened.vectors is not None else set()
    for key, text, known in opened.look(asking.texts):
        tally.texts += 1
        if known or key in seen:
            continue
        seen.add(key)
        tally.send += 1
        text = (opened.spec.prompt or "") + text
        tally.characters += len(text)
        if len(tally.first) < SAMPLE:
            tally.first.append(text)
    return tally
