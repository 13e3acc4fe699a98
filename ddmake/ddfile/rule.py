"""Rules: what a Ddfile declares."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddmake.ddfile.recipe import Recipe
    from ddmake.ddfile.target import Source

Group = tuple["Source", ...]  # sources that are read together; one that several rules read is the same tuple


@dataclass(frozen=True)
class Options:
    """What can be said of any rule, whatever its recipe."""

    version: str | None = None  # a packaged recipe counts by it, a user's own adds it to its code
    packages: Sequence[str] = ()  # whose versions are ingredients
    env: Sequence[str] = ()  # environment variables that are ingredients
    observes: Sequence[str] = ()  # inputs, by parameter, that are read and are no ingredient
    cpus: int | None = None  # cores that the job takes, and its threads
    gpus: int | None = None  # GPUs that the job is handed; unset leaves it those that ddmake sees
    mem: str | None = None  # memory that the job takes: "500MB", "16GB"
    time: str | None = None  # how long the job may run: "90s", "30m", "2h", "1d"
    retries: int = 0  # further tries after a failure, each with twice the time or memory that it lacked
    local: bool = False  # runs beside the head, whatever runs the other jobs
    shards: int | None = None  # jobs among which the rows of its input are dealt out where jobs run on a cluster
    slurm: Mapping[str, Any] = field(default_factory=dict)  # what its jobs ask of Slurm beside these: {"partition": "gpu"}
    manual: bool = False  # made only when named
    keep: int | None = None  # old results that stay restorable; unset keeps all
    cache: bool = True  # False: its llms are asked anew each time it is made, and what they answer is kept for nobody
    effect: bool = False  # does something outside, as publishing does: never restored
    about: str | None = None  # a human sentence for plan and card


@dataclass(eq=False, slots=True)
class Rule:
    """A recipe with outputs, inputs and arguments. Nothing in it changes once its Ddfile is loaded."""

    recipe: "Recipe"
    outputs: dict[str, str]  # path by name; the name is "" where there is one
    inputs: dict[str, Any]  # by parameter: Source, View, LLM, ModelName, or lists and dicts of these
    arguments: dict[str, Any]  # by parameter, defaults filled in
    options: Options
    place: str  # "Ddfile:41"
    wildcards: Mapping[str, str] = field(default_factory=dict)  # what a pattern's wildcards were bound to
    reads: tuple[Group, ...] = ()  # every source in inputs and arguments; a list of many is a group of its own
    names_models: bool = False  # whether there is an llm, or something where a model is asked for, in inputs and arguments

    @property
    def single(self) -> bool:
        """Tell whether the rule has just one output."""
        return "" in self.outputs

    @property
    def label(self) -> str:
        """Return what the rule is called in messages: its first output."""
        return next(iter(self.outputs.values()))
