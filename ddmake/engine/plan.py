"""What is stale and why. Planning changes nothing; a run asks the same `decide`, job by job, as inputs settle.

Verifying traces with early cutoff (Mokhov, Mitchell, Peyton Jones, "Build systems à la carte", ICFP 2018): a rule's
key holds its inputs' digests, so an input that was made again with the same meaning leaves its consumers fresh.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ddmake.artifacts import digest as artifacts
from ddmake.artifacts.digest import Digest
from ddmake.backends import check_name
from ddmake.ddfile.binding import leaves
from ddmake.ddfile.rule import Rule
from ddmake.ddfile.specs import LLM
from ddmake.ddfile.target import Source
from ddmake.ddfile.workflow import Workflow
from ddmake.engine.graph import Graph
from ddmake.engine.ingredients import Ingredients, ingredients, key_of, narrowed
from ddmake.engine.reasons import reason
from ddmake.engine.schema import Columns, columns_of
from ddmake.errors import DdfileError
from ddmake.store import Store
from ddmake.store.files import Manifest
from ddmake.store.traces import Trace

Word = Literal["fresh", "make", "restore", "maybe", "waiting", "edited", "manual"]


@dataclass(frozen=True)
class Verdict:
    """What is to be done about a rule, and why. Key and ingredients are there once its inputs are settled."""

    rule: Rule
    word: Word
    reason: str = ""
    key: str | None = None
    ingredients: Ingredients | None = None
    trace: Trace | None = None  # the result that is fresh or to be restored

    @property
    def settled(self) -> bool:
        """Tell whether the digests of the outputs are known."""
        return self.word in ("fresh", "restore")


@dataclass(frozen=True)
class Plan:
    """The verdicts on the rules that some targets need, in the order in which they can be made."""

    graph: Graph
    verdicts: list[Verdict]

    @property
    def todo(self) -> list[Verdict]:
        """Return the verdicts that a run would act on."""
        return [v for v in self.verdicts if v.word in ("make", "restore", "maybe")]


class Planner:
    """Decides on the rules of one workflow, against one store."""

    def __init__(self, flow: Workflow, store: Store):
        self.flow, self.store = flow, store
        self.verdicts: dict[int, Verdict] = {}
        self.columns: dict[str, Columns] = {}  # by target's path, where they are known
        self._sources: dict[str, Digest] = {}
        self._intents = store.traces.intents()  # swaps that a kill has cut short

    def plan(self, names: Iterable[str]) -> Plan:
        """Return the plan for targets by name. Raises DdfileError for mistakes, and for a named target that must wait."""
        names = list(names)
        wanted = self.flow.select(names)
        graph = Graph(self.flow, wanted)
        for rule in graph.order:
            self._check_llms(rule)
            self.settle(self.decide(rule))
        verdicts = [self.verdicts[id(rule)] for rule in graph.order]
        if names:
            _refuse_waiting(verdicts, wanted)
        return Plan(graph, verdicts)

    def settle(self, verdict: Verdict) -> None:
        """Take a verdict as given when others are decided."""
        rule = verdict.rule
        self.verdicts[id(rule)] = verdict
        if verdict.settled and verdict.trace is not None:
            outputs = verdict.trace.record["outputs"]
            known = {name: list(out["digest"].get("columns", ())) or None for name, out in outputs.items()}
        else:
            known = columns_of(self.flow, rule, self.columns)
        self.columns.update({path: known.get(name) for name, path in rule.outputs.items()})

    def decide(self, rule: Rule) -> Verdict:
        """Return the verdict on a rule whose inputs have been decided on."""
        held = self._held_up(rule)
        if held is not None:
            return held
        made_of = ingredients(self.flow, rule, self.identify)
        key = key_of(made_of)
        here = self._lying_there(rule)
        if here is not None and (edit := self._edited(rule, here)):
            return Verdict(rule, "edited", f"{edit}; move it away to have it restored", key, made_of)
        trace = here if here is not None and here.key == key else self.store.traces.by_key(key)
        if trace is None:
            return Verdict(rule, "make", self._why(rule, made_of), key, made_of)
        gone = [path for path in rule.outputs.values() if not (self.flow.root / path).exists()]
        if trace is here and not gone and not self._intents.keys() & set(rule.outputs.values()):
            return Verdict(rule, "fresh", "", key, made_of, trace)
        if all(self.store.objects.has(out["manifest"]) for out in trace.record["outputs"].values()):
            strange = self._strange(rule)
            why = f"made before; {strange}" if strange else "deleted" if here and gone else "made before"
            return Verdict(rule, "restore", why, key, made_of, trace)
        return Verdict(rule, "make", "deleted, and gone from the store", key, made_of)

    def identify(self, source: Source, columns: list[str] | None) -> Any:
        """Return what a reader of a settled source depends on."""
        return narrowed(self.digest(source), columns)

    def digest(self, source: Source) -> Digest:
        """Return a settled source's digest."""
        rule = self.flow.producer(source)
        if rule is None:
            return self._source_digest(source.path)
        trace = self.verdicts[id(rule)].trace
        assert trace is not None, f"{source.path} isn't settled"
        name = next(name for name, path in rule.outputs.items() if path == source.path)
        return trace.record["outputs"][name]["digest"]

    def _held_up(self, rule: Rule) -> Verdict | None:
        """Return a verdict where an input isn't settled."""
        for source in self.flow.sources(rule):
            before = self.flow.producer(source)
            if before is None and not (self.flow.root / source.path).exists():
                return Verdict(rule, "waiting", f"for {source.path}")
        before_it = [(self.verdicts[id(b)], s) for s in self.flow.sources(rule) if (b := self.flow.producer(s))]
        for word in ("waiting", "edited", "maybe"):
            for verdict, source in before_it:
                if verdict.word == word or word == "maybe" and verdict.word == "make":
                    return Verdict(rule, "maybe" if word == "maybe" else "waiting", f"behind {source.path}")
        return None

    def _lying_there(self, rule: Rule) -> Trace | None:
        """Return the trace whose outputs were last placed at all of a rule's paths."""
        placed = [self.store.traces.at(path) for path in rule.outputs.values()]
        if any(found is None or found[1] != name for found, name in zip(placed, rule.outputs)):
            return None
        traces = [found[0] for found in placed if found]
        return traces[0] if len({trace.id for trace in traces}) == 1 else None

    def _edited(self, rule: Rule, trace: Trace) -> str:
        """Return what isn't as the trace says, or nothing; an output that is gone isn't edited."""
        for name, path in rule.outputs.items():
            place, kept = self.flow.root / path, trace.record["outputs"][name]["manifest"]
            if not place.exists():
                continue
            now = self.store.files.manifest(place)
            if now == self._intended(path):
                continue
            changed = [part for part in dict.fromkeys([*kept, *now]) if kept.get(part) != now.get(part)]
            if changed:
                return f"{'/'.join(filter(None, [path, changed[0]]))} isn't what was made"
        return ""

    def _intended(self, path: str) -> Manifest | None:
        """Return the manifest of what was being put at a path when a kill came."""
        if path not in self._intents:
            return None
        number, name = self._intents[path]
        trace = self.store.traces.by_id(number)
        return trace.record["outputs"][name]["manifest"] if trace else None

    def _why(self, rule: Rule, now: Ingredients) -> str:
        """Return why a rule has to be made: what differs from what it was last made of."""
        placed = self.store.traces.at(rule.label)
        if placed is not None:
            return reason(placed[0].record["ingredients"], now)
        return f"never made; {strange}" if (strange := self._strange(rule)) else "never made"

    def _strange(self, rule: Rule) -> str:
        """Return what becomes of something that lies at an output and that ddmake didn't put there."""
        for path in rule.outputs.values():
            ours = path in self._intents or self.store.traces.placed_at(path) is not None
            if (self.flow.root / path).exists() and not ours:
                return f"what lies at {path} isn't ddmake's and will be put aside as {path}.bak"
        return ""

    def _source_digest(self, path: str) -> Digest:
        if path not in self._sources:
            place = self.flow.root / path
            self._sources[path] = digest_of(self.store, place)
        return self._sources[path]

    def _check_llms(self, rule: Rule) -> None:
        for leaf in leaves([*rule.inputs.values(), *rule.arguments.values()]):
            wrong = check_name(leaf.name, leaf.base_url) if isinstance(leaf, LLM) and isinstance(leaf.name, str) else None
            if wrong:
                raise DdfileError(f"{rule.place}: {wrong}")


def digest_of(store: Store, place: Path) -> Digest:
    """Return the digest of what lies at a place; of a dataset it is remembered by its files' hashes."""
    manifest = store.files.manifest(place)
    if artifacts.kind_of(place) != "dataset":
        return artifacts.digest(place, manifest)
    return store.traces.remembered(manifest, lambda: artifacts.digest(place, manifest))


def _refuse_waiting(verdicts: list[Verdict], wanted: list[Rule]) -> None:
    """Raise DdfileError where a target that was named waits for a source."""
    named = {id(rule) for rule in wanted}
    first = next((v for v in verdicts if v.word == "waiting" and v.reason.startswith("for ")), None)
    for verdict in verdicts:
        if verdict.word == "waiting" and id(verdict.rule) in named and first is not None:
            path = first.reason.removeprefix("for ")
            place, target = first.rule.place, verdict.rule.label
            raise DdfileError(f"{place}: {target} needs {path}, which isn't there and which no rule makes.")
