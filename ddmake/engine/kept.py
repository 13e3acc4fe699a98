"""What is left of the work of a rule that failed: the answers that it needn't ask for again, and what they have cost."""

from ddmake.calls import money
from ddmake.calls.money import Spent
from ddmake.ddfile.workflow import Workflow
from ddmake.engine.counting import known
from ddmake.engine.verdicts import Verdict
from ddmake.store import Store


def kept(flow: Workflow, store: Store, verdict: Verdict, since: float) -> str | None:
    """Return how many answers of a rule are kept, and what was spent on it since a moment; None where nothing is."""
    spent = money.by_rule(store.folder, verdict.rule.label, since)
    told = _answers(flow, store, verdict, spent)
    return f"{told} kept, {spent.told} spent." if told else None


def _answers(flow: Workflow, store: Store, verdict: Verdict, spent: Spent) -> str | None:
    """Return in words how many answers there are of how many; a recipe that doesn't tell what it asks has those of the run."""
    answered, requests = spent.calls, None
    if verdict.rule.recipe.asks is not None:
        try:
            answered, requests = known(flow, store, verdict)
        except Exception:  # what it fails for, perhaps
            pass
    if not answered:
        return None
    return f"{answered:,} of {requests:,} answers are" if requests else f"{answered:,} answer{'s are' if answered > 1 else ' is'}"
