"""Counting what a rule would ask: its inputs are opened to be looked at, its prompts rendered, its calls looked up."""

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ddmake.artifacts import sampled, stored, views
from ddmake.artifacts.digest import kind_of
from ddmake.calls import prices, tokens
from ddmake.calls.cache import written
from ddmake.calls.model import Manner, OpenedLLM
from ddmake.ddfile.asking import Asking
from ddmake.ddfile.target import Source, View
from ddmake.ddfile.workflow import Workflow
from ddmake.engine.estimate import Estimate
from ddmake.engine.opening import Opener, Way
from ddmake.engine.verdicts import Verdict
from ddmake.store import Store

SAMPLE = 200  # requests whose tokens are counted, where no call tells of them


class Looker(Opener):
    """Opens what a recipe is given to be looked at; of a very large dataset, a part. `share` is how much of the rows that is."""

    def __init__(self, flow: Workflow, store: Store, verdict: Verdict):
        super().__init__(flow, store, verdict.rule, lambda done, total, note: None, Way(Manner(verdict.epoch)), look_only=True)
        self.share = 1.0

    def open(self, value: Any) -> Any:
        """Return a value with everything in it opened."""
        source, steps = (value.of, value.steps) if isinstance(value, View) else (value, ())
        if not isinstance(source, Source) or self.flow.producer(source) is None or kind_of(Path(source.path)) != "dataset":
            return super().open(value)
        whole = stored.rows_at(Path(source.path), steps)
        if whole is None:
            whole = self._by_datasets(source, steps)
        part = sampled.sample(whole)
        self.share = min(self.share, len(part) / max(1, len(whole)))
        return part

    def stored(self, value: Any) -> None:
        """Leave it to `open`, which takes a part."""

    def _by_datasets(self, source: Source, steps: views.Steps) -> Any:
        import datasets

        datasets.disable_progress_bars()
        return views.apply(self._source(source), steps)


@dataclass
class Tally:
    """What would be sent to an llm in one pass."""

    llm: OpenedLLM
    requests: int = 0
    send: int = 0
    characters: int = 0
    images: bool = False
    first: list[str] = field(default_factory=list)


def count(flow: Workflow, store: Store, verdict: Verdict, seen: set[bytes]) -> Estimate:
    """Return what a rule would ask of its inputs as they lie there. `seen` holds the keys that others would send, and gets these.

    Raises whatever its recipe or its views do.
    """
    rule = verdict.rule
    with closing(Looker(flow, store, verdict)) as opener:
        opened = opener.given()
        inputs, arguments = ({name: opened[name] for name in given} for given in (rule.inputs, rule.arguments))
        passes = list(rule.recipe.asks(inputs, arguments))
        before = _used_before(store, rule.label)
        found = [_estimate(_tally(asking, seen), opener.share, before) for asking in passes if isinstance(asking.llm, OpenedLLM)]
    local = all(one.local for one in found)
    if len(found) < len(passes):  # a local model that would have to be loaded first
        return replace(_sum(found), requests=None, send=None, local=local)
    return replace(_sum(found), local=local)


def _used_before(store: Store, label: str) -> dict[str, Any]:
    """Return what the job whose result was last placed at a target had asked, by llm."""
    placed = store.traces.at(label)
    return placed[0].record["usage"] if placed is not None else {}


def _tally(asking: Asking, seen: set[bytes]) -> Tally:
    """Look up each request of a pass, and count those that would be sent."""
    llm, tally = asking.llm, Tally(asking.llm)
    for request, answer in llm.look(asking.prompts, asking.schema, asking.tools):
        tally.requests += 1
        key = None if answer is not None else llm.key(request)
        if key is None or key in seen and llm.manner.cache:
            continue
        seen.add(key)
        text = written(request)
        tally.send += 1
        tally.characters += len(text)
        tally.images = tally.images or tokens.IMAGE in text
        if len(tally.first) < SAMPLE:
            tally.first.append(text)
    return tally


def _estimate(tally: Tally, share: float, before: dict[str, Any]) -> Estimate:
    """Return what a pass comes to on all rows, of which `share` was looked at."""
    price = prices.price_of(tally.llm.spec)
    send, local = round(tally.send / share), price == prices.LOCAL
    found = Estimate(round(tally.requests / share), send, rough=share < 1, local=local, prices=price and price.date)
    if not send or local:
        return replace(found, tokens_in=0, tokens_out=0, dollars=0.0)
    each_in, each_out = _tokens_in(tally), _tokens_out(tally.llm, before)
    dollars = prices.cost(price, each_in, each_out, bool(tally.llm.spec.batch))
    return replace(found, tokens_in=_times(send, each_in), tokens_out=_times(send, each_out),
                   dollars=None if dollars is None else send * dollars)


def _tokens_in(tally: Tally) -> float | None:
    """Return the mean tokens of a request; with images these are known from the same rule's earlier ones, if at all."""
    db, by = tally.llm.calls.db, tally.llm.payer
    if tally.images:
        return tokens.mean(db, "tokens_in", by.llm, by.rule)
    rate = tokens.per_character(db, by.llm, by.rule) or tokens.counted(tally.first)
    return rate * tally.characters / tally.send


def _tokens_out(llm: OpenedLLM, before: dict[str, Any]) -> float | None:
    """Return the mean tokens of an answer: by the rule's last result, else by its calls that are known."""
    used = before.get(llm.payer.llm, {})
    if used.get("sent") and used.get("tokens_out") is not None:
        found: float | None = used["tokens_out"] / used["sent"]
    else:
        found = tokens.mean(llm.calls.db, "tokens_out", llm.payer.llm, llm.payer.rule)
    return found if found is None or llm.spec.max_tokens is None else min(found, llm.spec.max_tokens)


def _times(number: int, each: float | None) -> int | None:
    return None if each is None else round(number * each)


def _sum(found: Sequence[Estimate]) -> Estimate:
    """Return what several passes come to together; what isn't known of one isn't known of all."""
    names = ("requests", "send", "tokens_in", "tokens_out", "dollars")
    totals = {name: _total(getattr(one, name) for one in found) for name in names}
    prices_of = next((one.prices for one in found if one.prices), None)
    return Estimate(**totals, rough=any(one.rough for one in found), prices=prices_of)


def _total(numbers: Iterable[Any]) -> Any:
    known = list(numbers)
    return None if None in known else sum(known)
