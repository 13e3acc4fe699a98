"""What planning comes to: verdicts with their reasons, and a plan of them; and what a user may wish beyond."""

from dataclasses import dataclass, field
from typing import Literal

from ddmake.ddfile.rule import Rule
from ddmake.engine.graph import Graph
from ddmake.engine.ingredients import Ingredients
from ddmake.store.traces import Trace

Word = Literal["fresh", "make", "restore", "adopt", "maybe", "waiting", "edited", "manual"]
Edited = Literal["tell", "restore", "adopt"]  # what becomes of outputs that somebody has changed


@dataclass(frozen=True)
class Verdict:
    """What is to be done about a rule, and why. Key and ingredients are there once its inputs are settled."""

    rule: Rule
    word: Word
    reason: str = ""
    key: str | None = None
    ingredients: Ingredients | None = None
    trace: Trace | None = None  # the result that is fresh or to be restored
    epoch: int = 0  # the sample's number; more than 0 after --resample

    @property
    def listed(self) -> str:
        """Return the word that lists say: what is made only when it is named isn't stale as long as nobody names it."""
        return "manual" if self.rule.options.manual and self.word in ("make", "restore", "maybe") else self.word

    @property
    def settled(self) -> bool:
        """Tell whether the digests of the outputs are known."""
        return self.trace is not None and self.word in ("fresh", "restore")


@dataclass(frozen=True)
class Wishes:
    """What the user asks for beyond bringing targets up to date."""

    only: bool = False  # nothing but the rules that are named, on what lies there
    until: tuple[str, ...] = ()  # of what is asked for, these and what they need
    force: bool = False  # make what is named, be it fresh or not
    resample: bool = False  # draw new answers for what is named
    retry: bool = False  # send failed rows again
    edited: Edited = "tell"


NOTHING_MORE = Wishes()


@dataclass(frozen=True)
class Plan:
    """The verdicts on the rules that some targets need, in the order in which they can be made."""

    graph: Graph
    verdicts: list[Verdict]
    epochs: dict[str, int] = field(default_factory=dict)  # sample epochs that a run raises, by first output

    @property
    def todo(self) -> list[Verdict]:
        """Return the verdicts that a run would act on."""
        return [v for v in self.verdicts if v.word in ("make", "restore", "adopt", "maybe")]

    @property
    def edited(self) -> bool:
        """Tell whether somebody has changed an output."""
        return any(v.word == "edited" for v in self.verdicts)
