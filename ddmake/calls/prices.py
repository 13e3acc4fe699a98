"""What models cost. The table beside this file is made by scripts/prices.py from the price map that comes with litellm.

A model is looked up by the very name that it has there, and by nothing like it: what isn't found has no price, which is
another thing than costing nothing.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ddmake.backends import providers, servers
from ddmake.backends.hosted import base_of
from ddmake.ddfile.specs import LLM

TABLE = Path(__file__).with_name("prices.json")
OTHER_NAMES = {"cohere": "cohere_chat"}  # of providers, as llm() may have them: those of the table
BATCH = 0.5  # what a batch costs of the price, where the table doesn't say
MILLION = 1e6
ROW = 9  # fields of a row of the table; the last ones may be left out


@dataclass(frozen=True)
class Price:
    """What a model costs, in dollars a token, with where that is from and of which day it is."""

    tokens_in: float
    tokens_out: float
    cached: float = 1.0  # the share of it that input costs which the provider has kept from an earlier request
    batch_in: float = BATCH  # the share of it that a batch costs
    batch_out: float = BATCH
    max_output: int | None = None  # tokens that an answer can have
    dearer_from: int | None = None  # a request of more input tokens costs the next two, all of it
    dearer_in: float = 0.0
    dearer_out: float = 0.0
    source: str = "given"
    date: str | None = None

    @property
    def told(self) -> str:
        """Return where the price is from, as it is kept with a call."""
        return f"{self.source}, {self.date}" if self.date else self.source


LOCAL = Price(0.0, 0.0, source="local")


def price_of(spec: LLM) -> Price | None:
    """Return what an llm costs: as `price=` says, nothing for one that runs here, else by the table; None for unknown.

    A service that only a base_url leads to isn't in the table, whatever its models are called.
    """
    return _known(spec) if spec.price is None else _given(spec)


def cost(price: Price | None, tokens_in: float | None, tokens_out: float | None, batch: bool = False,
         cached: float = 0) -> float | None:
    """Return what a request costs in dollars, None where that isn't known; `cached` tokens of its input were kept before."""
    if price is None:
        return None
    if not price.tokens_in and not price.tokens_out:
        return 0.0
    if tokens_in is None or tokens_out is None:
        return None
    dear = price.dearer_from is not None and tokens_in > price.dearer_from
    each_in, each_out = (price.dearer_in, price.dearer_out) if dear else (price.tokens_in, price.tokens_out)
    share_in, share_out = (price.batch_in, price.batch_out) if batch else (1.0, 1.0)
    return each_in * share_in * (tokens_in - cached * (1 - price.cached)) + each_out * share_out * tokens_out


def _given(spec: LLM) -> Price:
    each_in, each_out = spec.price
    known = _known(spec)
    return Price(each_in / MILLION, each_out / MILLION, max_output=known.max_output if known else None)


def _known(spec: LLM) -> Price | None:
    """Return what an llm costs where the Ddfile doesn't say."""
    if base_of(spec.name) is not None:  # a model that a service tunes costs otherwise than its base
        return None
    if providers.road(spec) == "local" or servers.is_served(spec):
        return LOCAL
    name = listed_name(spec)
    return None if name is None else _listed(name)


def listed_name(spec: LLM) -> str | None:
    """Return an llm's name in the tables of models; None for one that only a base_url leads to, and one that runs here."""
    road = providers.road(spec)
    provider = providers.provider_of(spec) if road == "http" else None
    if road in ("local", "plugin") or servers.is_served(spec) or provider is not None and provider.url is None:
        return None
    kind = provider.name if provider is not None else providers.kind_of(spec)
    return f"{OTHER_NAMES.get(kind, kind)}/{providers.model_of(spec).removeprefix('converse/')}"


def _listed(name: str) -> Price | None:
    table = _table()
    row = table["models"].get(name)
    if row is None:
        return None
    each_in, each_out, cached, most, batch_in, batch_out, dearer_from, *dearer = [*row, *[None] * (ROW - len(row))]
    dearer_in, dearer_out = ((dollars or 0.0) / MILLION for dollars in dearer)
    return Price(each_in / MILLION, each_out / MILLION, _share(cached, each_in, 1.0), _share(batch_in, each_in, BATCH),
                 _share(batch_out, each_out, BATCH), most, dearer_from, dearer_in, dearer_out, table["source"], table["date"])


def _share(part: float | None, whole: float, unknown: float) -> float:
    return part / whole if part is not None and whole else unknown


@cache
def _table() -> Any:
    return json.loads(TABLE.read_text(encoding="utf-8"))
