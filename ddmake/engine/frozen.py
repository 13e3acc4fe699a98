"""`--frozen`: what is missing to make everything from what is stored, as far as that can be told before anything is run."""

from collections.abc import Iterator
from contextlib import closing

from ddmake.backends.hub import snapshot
from ddmake.backends.providers import is_remote
from ddmake.calls.client import not_stored
from ddmake.calls.model import OpenedLLM
from ddmake.ddfile.target import ModelName
from ddmake.ddfile.workflow import Workflow
from ddmake.engine import hub
from ddmake.engine.asked import asks, embeds, is_there, tunes
from ddmake.engine.counting import Looker
from ddmake.engine.verdicts import Plan, Verdict
from ddmake.errors import DdmakeError, NotStored
from ddmake.store import Store


def check(flow: Workflow, store: Store, plan: Plan) -> None:
    """Raise NotStored for the first thing that is missing: a source, an output that was edited, a model, a call.

    What is behind something that is to be made isn't known before that is there.
    """
    for verdict in plan.verdicts:
        rule = verdict.rule
        if verdict.word == "waiting":
            raise NotStored(f"{rule.place}: {rule.label} waits {verdict.reason}, which --frozen can't make. Put it there.")
        if verdict.word == "edited":
            raise NotStored(f"{rule.label}: {verdict.reason}.")
        if verdict.word == "make":
            _check_models(flow, verdict)
            _check_calls(flow, store, verdict)


def _check_models(flow: Workflow, verdict: Verdict) -> None:
    """Raise NotStored for a model of the Hub that a rule is given by name and that isn't here."""
    for leaf, name in hub.names_in(flow, verdict.rule):
        if isinstance(leaf, ModelName):
            try:
                snapshot(flow.root, name)
            except DdmakeError as error:
                raise NotStored(f"{verdict.rule.place}: {verdict.rule.label}: {error}") from None


def _check_calls(flow: Workflow, store: Store, verdict: Verdict) -> None:
    """Raise NotStored for the first call that a rule would have to send."""
    rule = verdict.rule
    if rule.recipe.asks is None or not is_there(flow, rule):
        return
    try:
        missing = next(_missing(flow, store, verdict), None)
    except Exception:  # whatever the recipe fails for: its job tells it with its place
        return
    if missing is not None:
        raise NotStored(f"{rule.place}: {rule.label}: {missing}")


def _missing(flow: Workflow, store: Store, verdict: Verdict) -> Iterator[NotStored]:
    """Yield what services would be sent."""
    with closing(Looker(flow, store, verdict)) as opener:
        given = opener.given()
        for asking in asks(verdict.rule, given):
            looked = asking.llm.look(asking.prompts, asking.schema, asking.tools, asking.labels) if isinstance(
                asking.llm, OpenedLLM) else ()
            yield from (not_stored(call, call.llm.spec) for call, answer in looked if answer is None and is_remote(call.llm.spec))
        for one in embeds(verdict.rule, given):
            yield from (NotStored(f"the vector of {text[:60]!r} isn't stored, and --frozen sends nothing. Leave out --frozen.")
                        for _, text, known in one.embedder.look(one.texts) if not known)
        for _ in tunes(verdict.rule, given):
            yield NotStored("it is trained at a service, and --frozen sends nothing. Leave out --frozen.")
