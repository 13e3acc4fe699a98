"""What a recipe's signature may say of its parameters beyond their names.

    def finetune(parts: Annotated[Any, Parts("train", observed=("validation",))], *, base: Model, prompt: Prompt, …)

Positional parameters are inputs, keyword-only ones arguments. `output`, `checkpoints`, `progress` and `environment` are
given by ddmake: a scratch folder (or file) to fill, a folder that survives a kill, a function to tell progress to, and the
environment of programs that the recipe starts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

GIVEN = ("output", "checkpoints", "progress", "environment")  # parameters that ddmake fills

MODEL: Literal["model"] = "model"
PROMPT: Literal["prompt"] = "prompt"
SCHEMA: Literal["schema"] = "schema"
FREE: Literal["free"] = "free"
ROWS: Literal["rows"] = "rows"
STORED: Literal["stored"] = "stored"
PATHS: Literal["paths"] = "paths"
ASKED: Literal["asked"] = "asked"
WRITTEN: Literal["written"] = "written"
TUNED: Literal["tuned"] = "tuned"  # of an llm over a network: a model is made of it there

Model = Annotated[Any, MODEL]  # a toy's name, a target, "./path" or a Hub name; arrives as a Path or the Hub name
Asked = Annotated[Any, MODEL, ASKED]  # the same, or an llm(); arrives as an llm: greedy, by the rule's max_tokens and separator
Prompt = Annotated[Any, PROMPT]  # a template or a Jinja string; arrives as a Template
Schema = Annotated[Any, SCHEMA]  # a dict of types, a pydantic model or a JSON schema; arrives as a JSON schema
Rows = Annotated[Any, ROWS]  # one dataset; arrives as a datasets.Dataset
StoredRows = Annotated[Any, ROWS, STORED]  # one dataset; arrives as artifacts.stored.Stored where that will do, else as a Dataset
Paths = Annotated[Any, PATHS]  # inputs that all arrive as paths, datasets too
Written = Annotated[Any, WRITTEN]  # plain values; arrive as they are written, lists and tuples told apart
Free = Annotated[Any, FREE]  # an argument that says how and not what: it counts for nothing
Progress = Callable[[int, int, str], None]  # (done, total, note); total 0 where it isn't known


@dataclass(frozen=True)
class Parts:
    """The parts of a dict or many-output target that a recipe asks for; it may also be given one dataset.

    Observed parts are read, and are no ingredient: but where one of the arguments `counts` is set, by which they decide.
    """

    required: str
    observed: tuple[str, ...] = ()
    counts: tuple[str, ...] = ()

    def asked(self) -> tuple[str, ...]:
        """Return the names of all parts that are asked for."""
        return (self.required, *self.observed)

    def watched(self, arguments: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the names of the parts that are no ingredient, given a rule's arguments."""
        return () if any(arguments.get(name) for name in self.counts) else self.observed


def marked(annotation: Any, mark: str) -> bool:
    """Tell whether an annotation carries a mark, alone or in a union or container."""
    if get_origin(annotation) is Annotated:
        metadata = annotation.__metadata__
        return mark in metadata or any(marked(extra, mark) for extra in metadata)
    return any(marked(arg, mark) for arg in get_args(annotation))


def parts_of(annotation: Any) -> Parts | None:
    """Return the parts that a parameter asks for, if it says so."""
    if get_origin(annotation) is Annotated:
        return next((extra for extra in annotation.__metadata__ if isinstance(extra, Parts)), None)
    return None
