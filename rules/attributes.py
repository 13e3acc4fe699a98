"""Texts that differ by design: a prompt asked for every combination of attributes."""

import math
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ddmake import step
from ddmake.ddfile.asking import Asking
from ddmake.ddfile.inputs import Prompt, Schema
from ddmake.ddfile.specs import LLM
from ddmake.errors import DdfileError, did_you_mean
from ddmake.rules.answering import OnError, Taking, answered
from ddmake.rules.columns import free
from ddmake.rules.wording import Wording, prompts

if TYPE_CHECKING:
    import pyarrow as pa

    from ddmake.artifacts.rows import Batches

Inputs, Arguments = Mapping[str, Any], Mapping[str, Any]
Parse = Callable[..., Any]  # (text, row) -> a value, or a dict of columns
Given = Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]]

MOST = 10_000_000  # rows that are taken for meant


def _told(inputs: Inputs, arguments: Arguments) -> list[str] | None:
    """Tell the columns of `attributed`."""
    _check(arguments["attributes"])
    for name in ("n", "take"):
        if arguments[name] is not None and arguments[name] < 1:
            raise DdfileError(f"{name} is a number of at least 1, not {arguments[name]}.")
    rows, taking = _Combinations(arguments), Taking.of(arguments, arguments["column"])
    if rows.taken > rows.there:
        raise DdfileError(f"take={arguments['take']}, and there are {rows.there:,} combinations of attributes.")
    if rows.taken * arguments["n"] > MOST:
        raise DdfileError(f"there are {rows.taken:,} combinations of attributes: say take=, which draws so many of them. "
                          f"With n={arguments['n']}, {MOST // arguments['n']:,} can be asked for.")
    free(rows.column_names, taking.told([]) or [arguments["column"]], "attributed")
    Wording.of(arguments).check(rows.column_names)
    taking.check(rows.column_names)
    return taking.told(rows.column_names)


def _asking(inputs: Inputs, arguments: Arguments) -> Iterator[Asking]:
    """Tell what `attributed` asks: each combination n times."""
    yield Asking(arguments["llm"], prompts(_Combinations(arguments), Wording.of(arguments)), arguments["schema"])


@step(version="1", columns=_told, asks=_asking)
def attributed(*, llm: LLM, prompt: Prompt, attributes: Given, n: int = 1, take: int | None = None, seed: int = 0,
               column: str = "text", system: Prompt | None = None, schema: Schema | None = None, parse: Parse | None = None,
               variables: Mapping[str, Any] | None = None, meta: bool = False, accept: Collection[str] = (),
               on_error: OnError = "keep") -> "Batches":
    """Ask an llm for n texts by each combination of attributes, which become columns beside the text.

    `attributes` is a dict of lists, of which every combination is taken, the last attribute changing fastest; or a list of
    dicts, each a combination. `take` draws so many of them by a seed, none twice, and keeps their order. The prompt sees the
    attributes. Such prompts give more diverse data than one that only names a class (Yu et al. 2023, arXiv 2306.15895).
    """
    arguments = locals()
    return answered(_Combinations(arguments), next(_asking({}, arguments)), Taking.of(arguments, arguments["column"]))


def _check(attributes: Given) -> None:
    """Raise DdfileError for attributes that make no combinations."""
    if not attributes:
        raise DdfileError('attributes is empty: give a dict of lists, as in {"topic": ["owls", "wrens"]}, or a list of dicts.')
    if isinstance(attributes, Mapping):
        for name, values in attributes.items():
            if not isinstance(values, Sequence) or isinstance(values, str) or not values:
                raise DdfileError(f"attributes: {name!r} has {values!r}, and takes a list of one value or more.")
        return
    names = list(attributes[0]) if isinstance(attributes[0], Mapping) else []
    for number, one in enumerate(attributes):
        if not isinstance(one, Mapping) or not one or set(one) != set(names):
            raise DdfileError(f"attributes: number {number} is {one!r}, and each is a dict with the names of the first: "
                              f"{', '.join(names)}.{_near(one, names)}")


def _near(one: Any, names: Sequence[str]) -> str:
    odd = next((name for name in one if name not in names), None) if isinstance(one, Mapping) else None
    return "" if odd is None else did_you_mean(odd, names)


@dataclass(frozen=True)
class _Combinations:
    """The combinations as rows, n times each, as far as `answered` reads them: made when they are read, and never all at once."""

    arguments: Arguments
    columns: Sequence[str] | None = None
    features: Mapping[str, Any] = field(default_factory=dict)  # Arrow's types tell all

    @property
    def attributes(self) -> Given:
        """Return the attributes as they are given."""
        return self.arguments["attributes"]

    @property
    def there(self) -> int:
        """Return how many combinations there are, of which a part may be taken."""
        given = self.attributes
        return math.prod(map(len, given.values())) if isinstance(given, Mapping) else len(given)

    @property
    def taken(self) -> int:
        """Return how many of them are taken."""
        return self.there if self.arguments["take"] is None else self.arguments["take"]

    @property
    def column_names(self) -> list[str]:
        """Return the names of the columns."""
        return list(self.columns or (self.attributes if isinstance(self.attributes, Mapping) else self.attributes[0]))

    def with_format(self, form: str, columns: Sequence[str] | None = None) -> "_Combinations":
        """Return the rows, or some of their columns, as Arrow has them."""
        return _Combinations(self.arguments, columns)

    def __len__(self) -> int:
        return self.arguments["n"] * self.taken

    def __getitem__(self, at: slice) -> "pa.Table":
        import pyarrow as pa

        numbers = [self._numbers[row // self.arguments["n"]] for row in range(len(self))[at]]
        return pa.table({name: self._column(name, numbers) for name in self.column_names})

    @cached_property
    def _numbers(self) -> Sequence[int]:
        """Return the numbers of the combinations that are taken."""
        take = self.arguments["take"]
        return range(self.there) if take is None else drawn(self.there, take, self.arguments["seed"])

    @cached_property
    def _values(self) -> dict[str, "pa.Array"]:
        """Return the values of each attribute, in the type that holds them all: of a dict's lists, or of all combinations."""
        from ddmake.artifacts.arrays import array

        given = self.attributes
        return {name: array(name, list(given[name]) if isinstance(given, Mapping) else [one[name] for one in given], 0)
                for name in self.column_names}

    def _column(self, name: str, numbers: Sequence[int]) -> "pa.Array":
        """Return an attribute's values in combinations."""
        import pyarrow as pa

        values = self._values[name]
        if isinstance(self.attributes, Mapping):
            names = list(self.attributes)
            inner = math.prod(len(self.attributes[one]) for one in names[names.index(name) + 1:])
            numbers = [number // inner % len(values) for number in numbers]
        return values.take(pa.array(numbers, pa.int64()))


def drawn(there: int, take: int, seed: int) -> list[int]:
    """Return so many of the numbers below `there`, which may be huge, in order and none twice."""
    chance, found = random.Random(seed), set[int]()
    if there < 2 * take:
        return sorted(chance.sample(range(there), take))
    while len(found) < take:
        found.add(chance.randrange(there))
    return sorted(found)
