"""What rules are about to ask their llms, as far as their inputs are there: looked at before anything is paid for.

Datasets are read without `datasets`, and only their first rows: enough to render prompts, too little to count them.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddmake.artifacts.digest import kind_of
from ddmake.backends import embedders
from ddmake.backends.providers import is_remote, missing_key
from ddmake.calls import choice
from ddmake.ddfile.asking import Asking, Embedding, NotYet, Prompt, Tuning
from ddmake.ddfile.binding import leaves
from ddmake.ddfile.rule import Rule
from ddmake.ddfile.specs import LLM, MODELS, Embedder, Mixture
from ddmake.ddfile.target import Source, View
from ddmake.ddfile.workflow import Workflow
from ddmake.engine.verdicts import Plan, Verdict
from ddmake.errors import DdfileError, DdmakeError, ProviderError, placed
from ddmake.store import Store

if TYPE_CHECKING:
    import pyarrow as pa

    from ddmake.artifacts.views import Steps

READ = 1000  # rows that are read of a dataset
RENDERED = 3  # prompts that are looked at


class FirstRows(list[dict[str, Any]]):
    """The first rows of a dataset, as a recipe's `asks` takes them."""

    @property
    def column_names(self) -> list[str]:
        """Return the names of the columns."""
        return list(self[0]) if self else []

    def with_format(self, form: str, columns: list[str] | None = None) -> "pa.Table":
        """Return the rows as Arrow's, or some columns of them."""
        import pyarrow as pa

        assert form == "arrow"
        table = pa.Table.from_pylist(self)
        return table if columns is None else table.select(columns)


def asks(rule: Rule, opened: Mapping[str, Any]) -> Iterable[Asking]:
    """Return what a rule asks llms, pass by pass, given its inputs and arguments opened; nothing where it doesn't tell."""
    return (one for one in _told(rule, opened) if isinstance(one, Asking))


def embeds(rule: Rule, opened: Mapping[str, Any]) -> Iterable[Embedding]:
    """Return what a rule has embedded by services, as `asks` does; embedders have to be opened."""
    return (one for one in _told(rule, opened) if isinstance(one, Embedding) and not isinstance(one.embedder, Embedder))


def tunes(rule: Rule, opened: Mapping[str, Any]) -> Iterable[Tuning]:
    """Return the trainings that a rule has services do, as `asks` does."""
    return (one for one in _told(rule, opened) if isinstance(one, Tuning))


def _told(rule: Rule, opened: Mapping[str, Any]) -> Iterable[Asking | Embedding | Tuning]:
    if rule.recipe.asks is None:
        return ()
    return rule.recipe.asks({name: opened[name] for name in rule.inputs}, {name: opened[name] for name in rule.arguments})


def first_prompts(flow: Workflow, rule: Rule) -> list[tuple[Asking, list[Prompt]]]:
    """Return the first prompts of each pass of a rule whose inputs are there; llms stay specs, and nothing is sent."""
    given = {name: _opened(flow, value) for name, value in {**rule.inputs, **rule.arguments}.items()}
    return [(asking, list(islice(asking.prompts, RENDERED))) for asking in asks(rule, given)]


def check(flow: Workflow, store: Store, plan: Plan) -> None:
    """Render the first prompts of what is to be made, and look for the keys that it needs.

    What isn't there yet, or doesn't tell what it asks, may ask anything: its keys have to be there. Raises DdfileError for what
    would fail only once the run is under way.
    """
    for verdict in plan.verdicts:
        rule = verdict.rule
        if verdict.word not in ("make", "maybe") or not rule.names_models:
            continue
        told = verdict.word == "make" and rule.recipe.asks is not None and is_there(flow, rule)
        if told:
            _render(flow, rule)
        for spec in services(rule):
            missing = lacking(spec)
            if missing is not None and (not told or _sends(flow, store, verdict, spec)):
                raise DdfileError(f"{rule.place}: {rule.label}: {missing}")


def llms(rule: Rule) -> list[LLM]:
    """Return the llms that a rule is given by name."""
    return [spec for spec in services(rule) if isinstance(spec, LLM)]


def services(rule: Rule) -> list[LLM | Embedder]:
    """Return the llms that a rule is given by name, and the embedders over a network."""
    found = (leaf for leaf in leaves([*rule.inputs.values(), *rule.arguments.values()]) if isinstance(leaf, MODELS))
    return [leaf for leaf in found if is_remote(leaf) or isinstance(leaf.name, str) and isinstance(leaf, LLM)]


def lacking(spec: LLM | Embedder) -> str | None:
    """Return what a service can't be asked without, as a sentence; None where nothing is missing."""
    return missing_key(spec) if isinstance(spec, LLM) else embedders.missing(spec)


def accepted(rule: Rule) -> list[str]:
    """Return the reasons to end an answer for which a rule uses it all the same."""
    accept = rule.arguments.get("accept") or ()
    return [accept] if isinstance(accept, str) else list(accept)


def is_there(flow: Workflow, rule: Rule) -> bool:
    """Tell whether all that a rule reads lies there."""
    return all((flow.root / source.path).exists() for source in flow.sources(rule))


def _render(flow: Workflow, rule: Rule) -> None:
    try:
        for asking, _ in first_prompts(flow, rule):
            remote = [llm for llm in leaves([asking.llm]) if isinstance(llm, LLM) and is_remote(llm)]
            if asking.labels is not None and remote:
                raise choice.unable(str(remote[0].name))
    except DdfileError as error:
        raise placed(f"{rule.place}: {rule.label}", error) from None
    except DdmakeError as error:  # of what stands in the rows
        raise DdfileError(f"{rule.place}: {rule.label}: {error}") from None
    except Exception:  # of the user's own functions: the job tells it with its place
        pass


def _sends(flow: Workflow, store: Store, verdict: Verdict, spec: LLM | Embedder) -> bool:
    """Tell whether a rule has something to ask a service that isn't known."""
    from ddmake.calls.model import Manner, OpenedLLM
    from ddmake.engine.opening import Opener, Way

    opener = Opener(flow, store, verdict.rule, lambda done, total, note: None, Way(Manner(verdict.epoch)), look_only=True)
    try:
        given = opener.given()
        if any(True for _ in tunes(verdict.rule, given)):
            return True
        if isinstance(spec, Embedder):
            texts = (one.embedder.look(one.texts) for one in embeds(verdict.rule, given) if one.embedder.spec == spec)
            return any(not known for each in texts for _, _, known in each)
        for one in asks(verdict.rule, given):
            if isinstance(one.llm, Mixture) and spec in one.llm:  # with a member whose files aren't here to tell who is asked
                return True
            if isinstance(one.llm, OpenedLLM) and any(llm.spec == spec for llm in one.llm.members):
                looked = one.llm.look(one.prompts, one.schema, one.tools, one.labels)
                if any(answer is None and call.llm.spec == spec for call, answer in looked):
                    return True
        return False
    except (ProviderError, NotYet):  # it has no address, or may ask anything
        return True
    except DdmakeError:
        raise
    except Exception:  # as above
        return False
    finally:
        opener.close()


def _opened(flow: Workflow, value: Any) -> Any:
    """Return a value with the datasets in it opened to their first rows; llms and models stay as they are."""
    if isinstance(value, Source):
        return _first(flow, value, ())
    if isinstance(value, View):
        return _first(flow, value.of, value.steps)
    if isinstance(value, dict):
        return {key: _opened(flow, item) for key, item in value.items()}
    return [_opened(flow, item) for item in value] if isinstance(value, list) else value


def _first(flow: Workflow, source: Source, steps: "Steps") -> Any:
    """Return the first rows of a dataset seen through a view; of anything else its path."""
    place = flow.root / source.path
    if flow.producer(source) is None or kind_of(place) != "dataset":
        return place
    from ddmake.artifacts.stored import Stored, rows_at

    stored = rows_at(place, steps)
    if stored is not None:
        return Stored(stored[0:RENDERED], stored.features)
    return FirstRows(islice(_through(place, steps), RENDERED))


def first_rows(flow: Workflow, value: Source | View) -> Iterator[dict[str, Any]]:
    """Return the first rows of a dataset, or of a view of one, as far as they are read; of anything else none."""
    source, steps = (value.of, value.steps) if isinstance(value, View) else (value, ())
    place = flow.root / source.path
    return _through(place, steps) if flow.producer(source) is not None and kind_of(place) == "dataset" else iter(())


def _through(place: Path, steps: "Steps") -> Iterator[dict[str, Any]]:
    """Return a dataset's first rows through a view."""
    from ddmake.artifacts.table import table

    found = table(place)
    rows = found.rows(0, READ) if found is not None else iter(())
    for verb, args in steps:
        rows = _seen(rows, verb, args)
    return rows


def _seen(rows: Iterator[dict[str, Any]], verb: str, args: tuple[Any, ...]) -> Iterator[dict[str, Any]]:
    """Return rows through one step of a view; those of another order or part are as good to be looked at as the first."""
    if verb in ("take", "skip"):
        return islice(rows, args[0]) if verb == "take" else islice(rows, args[0], None)
    if verb == "select":
        return ({name: row[name] for name in args} for row in rows)
    if verb == "remove":
        return ({name: value for name, value in row.items() if name not in args} for row in rows)
    if verb == "rename":
        return ({args[0].get(name, name): value for name, value in row.items()} for row in rows)
    if verb == "filter":
        return filter(args[0], rows)
    if verb == "map":
        return ({**row, **args[0](row)} for row in rows)
    if verb == "explode":
        return ({**row, args[0]: item} for row in rows for item in row[args[0]] or ())
    return rows
