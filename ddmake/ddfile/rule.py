"""Rules: what a Ddfile declares."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddmake.ddfile.recipe import Recipe


@dataclass(frozen=True)
class Options:
    """What can be said of any rule, whatever its recipe."""

    version: str | None = None  # a packaged recipe counts by it, a user's own adds it to its code
    packages: Sequence[str] = ()  # whose versions are ingredients
    env: Sequence[str] = ()  # environment variables that are ingredients
    cpus: int | None = None  # threads that the job may use
    manual: bool = False  # made only when named
    about: str | None = None  # a human sentence for plan and card


@dataclass(frozen=True, eq=False)
class Rule:
    """A recipe with outputs, inputs and arguments."""

    recipe: "Recipe"
    outputs: dict[str, str]  # path by name; the name is "" where there is one
    inputs: dict[str, Any]  # by parameter: Source, View, LLM, ModelName, or lists and dicts of these
    arguments: dict[str, Any]  # by parameter, defaults filled in
    options: Options
    place: str  # "Ddfile:41"

    @property
    def single(self) -> bool:
        """Tell whether the rule has just one output."""
        return "" in self.outputs

    @property
    def label(self) -> str:
        """Return what the rule is called in messages: its first output."""
        return next(iter(self.outputs.values()))
