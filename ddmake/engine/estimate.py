"""What a dry run says of money: how many requests stale rules would send, and what these would cost. Sends nothing.

Prompts are rendered on the rows that are there, and each request is looked up. Tokens in are reckoned from the length of what
would be sent, tokens out from what the rule used before; what nobody can know stays None.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace

from ddmake.backends.hosted import base_of
from ddmake.backends.providers import is_remote
from ddmake.ddfile.binding import leaves
from ddmake.ddfile.inputs import ASKED, marked
from ddmake.ddfile.rule import Rule
from ddmake.ddfile.specs import LLM, Embedder
from ddmake.ddfile.target import ModelName, Source
from ddmake.ddfile.workflow import Workflow
from ddmake.engine.verdicts import Plan, Verdict
from ddmake.errors import DdfileError, ProviderError
from ddmake.store import Store


@dataclass(frozen=True)
class Estimate:
    """What a rule would ask; None where that isn't known. Tokens and dollars are those of what would be sent."""

    requests: int | None = None
    send: int | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    dollars: float | None = None
    rough: bool = False  # counted on a part of the rows
    local: bool = False  # all of it runs here, and costs nothing
    prices: str | None = None  # the day of the table's prices, where one is used
    trains: bool = False  # it is a training that a service does
    unpriced: bool = False  # what is to be sent goes to a model whose price isn't known
    under_way: int = 0  # requests that are in an open batch, and announced before
    missing: str | None = None  # a sentence on a key or an address that isn't there

    @property
    def cached(self) -> int | None:
        """Return the requests that needn't be sent: those that are known, and those that equal one before."""
        return None if self.requests is None or self.send is None else self.requests - self.send - self.under_way


def estimates(flow: Workflow, store: Store, plan: Plan, retried: Container[Rule] = ()) -> dict[Rule, Estimate]:
    """Return what the rules to be made would ask, for each that asks an llm, or an embedder over a network.

    Those `retried` send their failed rows again. Raises DdfileError for a prompt that can't be rendered, and for a
    service without an address.
    """
    seen: set[bytes] = set()  # keys that would be sent, whichever rule comes first
    return {verdict.rule: _estimate(flow, store, verdict, _models(verdict.rule), seen, verdict.rule in retried)
            for verdict in plan.verdicts if verdict.word in ("make", "maybe") and _asks(verdict.rule)}


def _asks(rule: Rule) -> bool:
    """Tell whether a rule asks anybody: what is given as an llm or embedder, or a model that is to be asked as it is."""
    if not rule.names_models:
        return False
    takes = rule.recipe.signature.parameters
    bare = [value for name, value in {**rule.inputs, **rule.arguments}.items() if marked(takes[name].annotation, ASKED)]
    return bool(_models(rule)) or any(isinstance(leaf, (Source, ModelName)) for leaf in leaves(bare))


def _models(rule: Rule) -> list[LLM | Embedder]:
    given = [*rule.inputs.values(), *rule.arguments.values()] if rule.names_models else []
    return [leaf for leaf in leaves(given) if isinstance(leaf, LLM) or isinstance(leaf, Embedder) and is_remote(leaf)]


def _at_services(rule: Rule) -> bool:
    """Tell whether a model that is to be asked as it is was made by a service."""
    return any(base_of(leaf) is not None for leaf in leaves([*rule.inputs.values()]))


def _estimate(flow: Workflow, store: Store, verdict: Verdict, models: Sequence[LLM | Embedder], seen: set[bytes],
              retry: bool) -> Estimate:
    from ddmake.calls import prices  # a project at rest needn't load what counts, nor what it counts with
    from ddmake.engine.asked import lacking

    missing = next(filter(None, map(lacking, models)), None)
    local = not _at_services(verdict.rule) and all(
        isinstance(model, LLM) and prices.price_of(model) == prices.LOCAL for model in models)
    unknown = Estimate(local=local, missing=missing)
    if verdict.word != "make" or verdict.rule.recipe.asks is None:
        return unknown
    from ddmake.engine.counting import count

    try:
        found = count(flow, store, verdict, seen, retry)
    except DdfileError:
        raise
    except ProviderError as error:  # of a service without an address
        raise DdfileError(f"{verdict.rule.place}: {verdict.rule.label}: {error}") from None
    except Exception:  # an input that has gone, a user's function in a view: the run will tell, if it matters
        return unknown
    return replace(found, missing=missing) if found.send != 0 else found
