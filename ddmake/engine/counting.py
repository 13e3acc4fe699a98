"""Counting what a rule would ask: its inputs are opened to be looked at, its prompts rendered, its calls and texts looked up."""

from collections.abc import Collection, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ddmake.artifacts import sampled, stored, views
from ddmake.artifacts.digest import kind_of
from ddmake.backends import structured
from ddmake.backends.base import Answer, Request
from ddmake.calls import prices, tokens
from ddmake.calls.cache import written
from ddmake.calls.model import Manner, OpenedLLM
from ddmake.ddfile.asking import Asking
from ddmake.ddfile.target import Source, View
from ddmake.ddfile.workflow import Workflow
from ddmake.engine import embedded, tuned
from ddmake.engine.asked import accepted, asks, embeds, tunes
from ddmake.engine.estimate import Estimate
from ddmake.engine.opening import Opener, Way
from ddmake.engine.verdicts import Verdict
from ddmake.store import Store, failed
from ddmake.store.traces import Trace

SAMPLE = 200  # requests whose tokens are counted, where no call tells of them
PARSER = ("parse raised", "no verdict")  # how the reason begins for which a parser's row, or a judge's, failed


class Looker(Opener):
    """Opens what a recipe is given to be looked at; of a very large dataset, a part. `share` is how much of the rows that is."""

    def __init__(self, flow: Workflow, store: Store, verdict: Verdict):
        super().__init__(flow, store, verdict.rule, lambda done, total, note: None, Way(Manner(verdict.epoch)), look_only=True)
        self.shares: dict[int, float] = {}  # by the id of what was opened

    @property
    def share(self) -> float:
        """Return the smallest of the shares."""
        return min(self.shares.values(), default=1.0)

    def open(self, value: Any) -> Any:
        """Return a value with everything in it opened."""
        source, steps = (value.of, value.steps) if isinstance(value, View) else (value, ())
        if not isinstance(source, Source) or self.flow.producer(source) is None or kind_of(Path(source.path)) != "dataset":
            return super().open(value)
        whole = stored.rows_at(Path(source.path), steps)
        if whole is None:
            whole = self._by_datasets(source, steps)
        part = sampled.sample(whole)
        self.shares[id(part)] = len(part) / len(whole) if len(whole) else 1.0
        return part

    def stored(self, value: Any) -> None:
        """Leave it to `open`, which takes a part."""

    def _by_datasets(self, source: Source, steps: views.Steps) -> Any:
        import datasets

        datasets.disable_progress_bars()
        return self.view(source, steps)


@dataclass
class Tally:
    """What would be sent to an llm in one pass."""

    llm: OpenedLLM
    requests: int = 0
    send: int = 0
    under_way: int = 0
    characters: int = 0
    images: bool = False
    first: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Again:
    """Which of the answers that are known would be asked for again: those that can't be used, and those a parser refused."""

    accept: Collection[str]
    refused: Collection[tuple[str, int]]  # by llm and number, as the last result's failed rows have them

    def wanted(self, llm: str, number: int, request: Request, answer: Answer) -> bool:
        """Tell whether an answer would be asked for again."""
        if answer.unusable(self.accept) or (llm, number) in self.refused:
            return True
        return request.schema is not None and structured.read(str(answer), request.schema)[1] is not None


def count(flow: Workflow, store: Store, verdict: Verdict, seen: set[bytes], retry: bool = False) -> Estimate:
    """Return what a rule would ask of its inputs as they lie there. `seen` holds the keys that others would send, and gets these.

    With `retry` known answers that can't be used are asked for again. Raises whatever its recipe or its views do.
    """
    rule, before = verdict.rule, _before(store, verdict.rule.label)
    again = Again(accepted(rule), _refused(store, before)) if retry else None
    with closing(Looker(flow, store, verdict)) as opener:
        given = opener.given()
        passes = list(asks(rule, given))
        used = before.record["usage"] if before is not None else {}
        found = [_estimate(tally, opener.share, used) for asking in passes if isinstance(asking.llm, OpenedLLM)
                 for tally in _tallies(asking, seen, again)]
        told = all(isinstance(asking.llm, OpenedLLM) for asking in passes)
        found += [embedded.estimate(store, rule.label, one, opener.shares.get(id(one.rows), 1.0), seen)
                  for one in embeds(rule, given)]
        found += [tuned.estimate(one, opener.share) for one in tunes(rule, given)]
    local = all(one.local for one in found)
    if not told:  # a local model that would have to be loaded first
        return replace(_sum(found), requests=None, send=None, local=local)
    return replace(_sum(found), local=local)


def known(flow: Workflow, store: Store, verdict: Verdict) -> tuple[int, int]:
    """Return how many of a rule's requests are answered, and how many there are. Raises whatever its recipe does."""
    answered = requests = 0
    with closing(Looker(flow, store, verdict)) as opener:
        given = opener.given()
        for asking in asks(verdict.rule, given):
            if isinstance(asking.llm, OpenedLLM):
                for _, answer in asking.llm.look(asking.prompts, asking.schema, asking.tools, asking.labels):
                    answered, requests = answered + (answer is not None), requests + 1
        for one in embeds(verdict.rule, given):
            for _, _, there in one.embedder.look(one.texts):
                answered, requests = answered + there, requests + 1
    return round(answered / opener.share), round(requests / opener.share)


def _before(store: Store, label: str) -> Trace | None:
    """Return the job whose result was last placed at a target."""
    placed = store.traces.at(label)
    return placed[0] if placed is not None else None


def _refused(store: Store, before: Trace | None) -> set[tuple[str, int]]:
    """Return the requests whose answers a parser refused, by llm and number."""
    rows = failed.of(store.traces.db, before.id) if before is not None else ()
    return {(row.llm, row.number) for row in rows if row.reason.startswith(PARSER)}


def _tallies(asking: Asking, seen: set[bytes], again: Again | None) -> Iterable[Tally]:
    """Look up each request of a pass, and count those that would be sent, by the llm that answers them."""
    tallies = {id(llm): Tally(llm) for llm in asking.llm.members}
    open_ones = set[bytes]().union(*(_in_batches(llm) for llm in asking.llm.members))
    for asked, answer in asking.llm.look(asking.prompts, asking.schema, asking.tools, asking.labels):
        tally, llm = tallies[id(asked.llm)], asked.llm
        tally.requests += 1
        if answer is not None and not (again and again.wanted(llm.payer.llm, asked.number, asked.request, answer)):
            continue
        if asked.key in seen and llm.manner.cache:
            continue
        seen.add(asked.key)
        if asked.key in open_ones:
            tally.under_way += 1
            continue
        text = written(asked.request)
        tally.send += 1
        tally.characters += len(text)
        tally.images = tally.images or tokens.IMAGE in text
        if len(tally.first) < SAMPLE:
            tally.first.append(text)
    return tallies.values()


def _in_batches(llm: OpenedLLM) -> set[bytes]:
    """Return the keys of what was handed over to a provider's batch API and isn't collected yet, for an llm that asks so."""
    return {key for key, in llm.calls.db.execute("SELECT key FROM batch_items")} if llm.spec.batch else set()


def _estimate(tally: Tally, share: float, before: dict[str, Any]) -> Estimate:
    """Return what a pass comes to on all rows, of which `share` was looked at."""
    price = prices.price_of(tally.llm.spec)
    send, local = round(tally.send / share), price == prices.LOCAL
    found = Estimate(round(tally.requests / share), send, rough=share < 1, local=local, prices=price and price.date,
                     under_way=round(tally.under_way / share))
    if not send or local:
        return replace(found, tokens_in=0, tokens_out=0, dollars=0.0)
    each_in, each_out = _tokens_in(tally), _tokens_out(tally.llm, before)
    dollars = prices.cost(price, each_in, each_out, bool(tally.llm.spec.batch))
    return replace(found, tokens_in=_times(send, each_in), tokens_out=_times(send, each_out),
                   dollars=None if dollars is None else send * dollars, unpriced=price is None)


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
    return Estimate(**totals, rough=any(one.rough for one in found), prices=prices_of,
                    unpriced=any(one.unpriced for one in found), trains=any(one.trains for one in found),
                    under_way=sum(one.under_way for one in found))


def _total(numbers: Iterable[Any]) -> Any:
    known = list(numbers)
    return None if None in known else sum(known)
