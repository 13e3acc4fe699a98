"""What is stale and why. Planning changes nothing; a run asks the same `decide`, job by job, as inputs settle.

Verifying traces with early cutoff (Mokhov, Mitchell, Peyton Jones, "Build systems à la carte", ICFP 2018): a rule's
key holds its inputs' digests, so an input that was made again with the same meaning leaves its consumers fresh.
"""

import os
from collections.abc import Container, Iterable
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from ddmake.artifacts import digest as artifacts
from ddmake.artifacts.digest import Digest
from ddmake.backends import check_name, embedders
from ddmake.backends.batches import no_batches
from ddmake.backends.fit import unfit
from ddmake.backends.providers import unsupported
from ddmake.ddfile.binding import leaves
from ddmake.ddfile.rule import Group, Rule
from ddmake.ddfile.specs import LLM, MODELS, Embedder
from ddmake.ddfile.target import Source
from ddmake.ddfile.workflow import Workflow
from ddmake.engine.graph import Graph
from ddmake.engine.ingredients import Ingredients, Keys, Reader, narrowed
from ddmake.engine.reasons import reason
from ddmake.engine.schema import Columns, columns_of
from ddmake.engine.verdicts import NOTHING_MORE, Edited, Plan, Verdict, Wishes, Word
from ddmake.errors import DdfileError, DdmakeError, did_you_mean
from ddmake.store import Store, failed
from ddmake.store.files import Manifest, Unfit
from ddmake.store.traces import Trace

LOOKED_AT = 1000  # names among which one is sought that may have been meant
MANY = 100  # rules from which on the store is read as a whole
HOLDING: tuple[Word, ...] = ("waiting", "edited", "maybe")  # how an input's verdict holds up its readers, the gravest first

Held = tuple[int, str]  # how an input holds up its readers: 0 it isn't there, 1 waiting, 2 edited, 3 maybe; and the reason


class Planner:
    """Decides on the rules of one workflow, against one store."""

    def __init__(self, flow: Workflow, store: Store, edited: Edited = "tell"):
        self.flow, self.store, self.edited = flow, store, edited
        self.verdicts: dict[Rule, Verdict] = {}
        self.forced: set[Rule] = set()
        self.retried: set[Rule] = set()  # whose failed rows are sent again
        self.columns: dict[str, Columns] = {}  # by target's path, where they are known before it is made
        self.reader = Reader(flow, self.identify)
        self.keys = Keys()
        self._at = store.traces.at
        self._keys: set[str] | None = None  # those that there are traces of, where they were read at once
        self._epochs = store.traces.epochs()
        self._intents = store.traces.intents()  # swaps that a kill has cut short
        self._sources: dict[str, Digest | None] = {}
        self._groups: dict[int, Held | None] = {}  # how a group of inputs holds up its readers, by the group's id
        self._standing: dict[Rule, list[Group]] = {}  # the long groups that a rule stands in

    def plan(self, names: Iterable[str], wishes: Wishes = NOTHING_MORE) -> Plan:
        """Return the plan for targets by name. Raises DdfileError for mistakes, and for a named target that must wait."""
        names = list(names)
        wanted = self.flow.select(names)
        graph, wanted = self._graph(wanted, wishes, bool(names))
        self._read_ahead(graph)
        raised = self._resampled(wanted) if wishes.resample else {}
        self.forced = set(wanted) if wishes.force else set()
        self.retried = set(wanted if names else graph.order) if wishes.retry else set()
        self.edited = wishes.edited
        if wishes.only:
            self._take_inputs_as_they_lie(graph)
        verdicts = self._decide_all(graph)
        if names:
            _refuse_waiting(verdicts, wanted)
        else:
            needed = set(graph.order)
            manual = (rule for rule in self.flow.rules if rule.options.manual and rule not in needed)
            verdicts += [Verdict(rule, "manual", "runs when named") for rule in manual]
        return Plan(graph, verdicts, raised)

    def survey(self, rules: Iterable[Rule]) -> Plan:
        """Return the verdicts on rules, manual ones too, and on what they need; nothing is refused for waiting."""
        graph = Graph(self.flow, rules)
        self._read_ahead(graph)
        return Plan(graph, self._decide_all(graph))

    def read_anew(self) -> None:
        """Ask the store itself from now on, since the jobs of this run and other heads change what it says."""
        self._at, self._keys = self.store.traces.at, None

    def settle(self, verdict: Verdict) -> None:
        """Take a verdict as given when others are decided."""
        rule = verdict.rule
        before = self.verdicts.get(rule)
        if before is not None:
            self._unsettle(rule)
        self.verdicts[rule] = verdict
        if not verdict.settled:
            told = columns_of(self.flow, rule, self.known_columns)
            self.columns.update({path: told.get(name) for name, path in rule.outputs.items()})

    def decide(self, rule: Rule) -> Verdict:
        """Return the verdict on a rule whose inputs have been decided on."""
        verdict = self._decide(rule)
        lost = failed.count(self.store.traces.db, verdict.trace.id) if rule in self.retried and verdict.trace else 0
        if not lost or not verdict.settled:
            return verdict
        why = f"{lost:,} failed rows are sent again" if lost > 1 else "1 failed row is sent again"
        return replace(verdict, word="make", reason=why, trace=None)

    def _decide(self, rule: Rule) -> Verdict:
        held = self._held_up(rule)
        if held is not None:
            return Verdict(rule, *held)
        here = self._lying_there(rule)
        made_of, key, epoch = self._made_of(rule, here)
        edit, gone = self._look(rule, here)
        if edit and self.edited == "tell":
            return Verdict(rule, "edited", f"{edit}; take it back with --restore, or keep it with --adopt", key, made_of)
        if edit and self.edited == "adopt":
            lost = self._lost(rule, here)
            if lost:
                return Verdict(rule, "edited", f"{edit}, and {lost} is gone for good; make all anew with --restore", key, made_of)
            return Verdict(rule, "adopt", edit, key, made_of, here, epoch)
        if rule in self.forced:
            return Verdict(rule, "make", "forced", key, made_of, None, epoch)
        if here is not None and here.key == key and not gone and not edit and not self._unfinished(rule):
            return Verdict(rule, "fresh", "", key, made_of, here, epoch)
        return self._by_trace(rule, key, made_of, epoch, here, edit, gone)

    def _by_trace(self, rule: Rule, key: str, made_of: Ingredients, epoch: int, here: Trace | None, edit: str,
                  gone: bool) -> Verdict:
        """Return the verdict on a rule that isn't fresh, by what is recorded under its key."""
        trace = here if here is not None and here.key == key else self._by_key(key, rule.label)
        if trace is None:
            return Verdict(rule, "make", self._why(rule, made_of), key, made_of, None, epoch)
        if rule.options.effect and not (edit and trace is here):  # what an effect left behind may be put right
            why = "deleted; it does something outside" if trace is here else "made before; it does something outside"
            return Verdict(rule, "make", f"{why}, and isn't restored", key, made_of, None, epoch)
        if all(self.store.objects.has(out["manifest"]) for out in trace.outputs.values()):
            strange = self._strange(rule, trace)
            why = f"{edit}; it is put aside as .bak" if edit else f"made before; {strange}" if strange else \
                "deleted" if gone else "made before"
            return Verdict(rule, "restore", why, key, made_of, trace, epoch)
        why = "deleted, and gone from the store" if gone else "made before, and gone from the store"
        return Verdict(rule, "make", why, key, made_of, None, epoch)

    def identify(self, source: Source, columns: Container[str] | None) -> Any:
        """Return what a reader of a settled source depends on."""
        return narrowed(self.digest(source), columns)

    def digest(self, source: Source) -> Digest:
        """Return a settled source's digest."""
        if source.target is None:
            found = self._source_digest(source.path)
            assert found is not None, f"{source.path} isn't there"
            return found
        trace = self.verdicts[source.target.rule].trace
        assert trace is not None, f"{source.path} isn't settled"
        return trace.outputs[source.target.output or ""]["digest"]

    def known_columns(self, path: str) -> Columns:
        """Return the columns of a target's dataset, None where they aren't known."""
        target = self.flow.targets.get(path)
        verdict = self.verdicts.get(target.rule) if target is not None else None
        if target is not None and verdict is not None and verdict.settled and verdict.trace is not None:
            return list(verdict.trace.outputs[target.output or ""]["digest"].get("columns", ())) or None
        return self.columns.get(path)

    def _read_ahead(self, graph: Graph) -> None:
        """Read the store as a whole where most of it will be asked for."""
        if len(graph.order) >= MANY:
            self._at = self.store.traces.all_placed().get
            self._keys = self.store.traces.keys()
            self.store.files.load()

    def _decide_all(self, graph: Graph) -> list[Verdict]:
        for rule in graph.order:
            self._check_llms(rule)
            self.settle(self.decide(rule))
        return [self.verdicts[rule] for rule in graph.order]

    def _graph(self, wanted: list[Rule], wishes: Wishes, named: bool) -> tuple[Graph, list[Rule]]:
        """Return the graph of what is to be brought up to date, and the rules that are meant by the wishes."""
        graph = Graph(self.flow, wanted, alone=wishes.only)
        if wishes.until:
            last = graph.needed_by(self.flow.select(wishes.until))
            graph = Graph(self.flow, [rule for rule in graph.order if rule in last], alone=wishes.only)
        if wishes.resample and named:  # new answers count for what is behind them, too
            every = Graph(self.flow, self.flow.rules)
            behind = [rule for rule in every.behind(wanted) if not rule.options.manual]
            graph = Graph(self.flow, [*wanted, *behind])
        needed = set(graph.order)
        return graph, [rule for rule in wanted if rule in needed]

    def take_as_it_lies(self, rule: Rule) -> bool:
        """Settle a rule by what was last placed at its outputs, and tell whether that lies there unchanged."""
        trace = self._lying_there(rule)
        if trace is None or self._look(rule, trace) != ("", False):
            return False
        self.verdicts[rule] = Verdict(rule, "fresh", trace=trace)
        return True

    def _take_inputs_as_they_lie(self, graph: Graph) -> None:
        """Settle what the wanted rules read. Raises DdfileError for what isn't made."""
        wanted = set(graph.order)
        for rule in graph.order:
            for before in graph.before(rule):
                if before not in wanted and before not in self.verdicts and not self.take_as_it_lies(before):
                    raise DdfileError(f"{rule.place}: {rule.label} needs {before.label}, which isn't there as it was made. "
                                      "Leave out --only.")

    def _resampled(self, wanted: list[Rule]) -> dict[str, int]:
        """Raise the sample epochs of rules, and return them by first output."""
        raised = {rule.label: self._epoch(rule, self._lying_there(rule)) + 1 for rule in wanted}
        self._epochs = {**self._epochs, **raised}
        return raised

    def _made_of(self, rule: Rule, here: Trace | None) -> tuple[Ingredients, str, int]:
        """Return a settled rule's ingredients, its key and its sample epoch."""
        epoch = self._epoch(rule, here)
        made_of = self.reader.ingredients(rule, epoch)
        if not epoch and here is None and self._epochs and rule.label not in self._epochs:
            moved = self.store.traces.by_base(self.keys.of(made_of))  # the same rule at another path keeps its sample
            if moved is not None and moved.epoch:
                epoch = moved.epoch
                made_of = self.reader.ingredients(rule, epoch)
        return made_of, self.keys.of(made_of), epoch

    def _epoch(self, rule: Rule, here: Trace | None) -> int:
        if not self._epochs:
            return 0
        return self._epochs.get(rule.label, here.epoch if here is not None else 0)

    def _held_up(self, rule: Rule) -> tuple[Word, str] | None:
        """Return the verdict's word and reason where an input isn't settled."""
        worst = min((held for group in rule.reads if (held := self._group_held(group))), key=lambda held: held[0], default=None)
        return None if worst is None else ("maybe" if worst[0] == len(HOLDING) else "waiting", worst[1])

    def _group_held(self, group: Group) -> Held | None:
        """Return how a group of inputs holds up its readers; worked out once for all that share it."""
        if len(group) == 1:
            return self._source_held(group[0])
        if id(group) not in self._groups:
            found = (held for source in group if (held := self._source_held(source)) is not None)
            self._groups[id(group)] = min(found, key=lambda held: held[0], default=None)
            for source in group:
                if source.target is not None:
                    self._standing.setdefault(source.target.rule, []).append(group)
        return self._groups[id(group)]

    def _source_held(self, source: Source) -> Held | None:
        if source.target is None:
            try:
                found = self._source_digest(source.path)
            except Unfit as error:
                return 0, str(error)
            return None if found is not None else (0, f"for {source.path}{self._near(source.path)}")
        verdict = self.verdicts[source.target.rule]
        word = "maybe" if verdict.word in ("make", "adopt") else verdict.word
        return (HOLDING.index(word) + 1, f"behind {source.path}") if word in HOLDING else None

    def _near(self, path: str) -> str:
        """Return what may have been meant by a source that isn't there: what lies beside it, a target there or of its name."""
        folder, name = os.path.split(path)
        known = [target for target in islice(self.flow.targets, LOOKED_AT) if os.path.dirname(target) == folder
                 or os.path.basename(target) == name]
        with suppress(OSError), os.scandir(self.flow.root / folder) as entries:
            known += [os.path.join(folder, entry.name) for entry in islice(entries, LOOKED_AT)]
        near = did_you_mean(path, known)
        return near and f".{near}"

    def _unsettle(self, rule: Rule) -> None:
        """Forget what was worked out from a rule's last verdict."""
        for group in self._standing.pop(rule, ()):
            self._groups.pop(id(group), None)
            self.reader.forget(group)

    def _lying_there(self, rule: Rule) -> Trace | None:
        """Return the trace whose outputs were last placed at all of a rule's paths."""
        found: Trace | None = None
        for name, path in rule.outputs.items():
            placed = self._at(path)
            if placed is None or placed[1] != name or found is not None and placed[0].id != found.id:
                return None
            found = placed[0]
        return found

    def _by_key(self, key: str, path: str) -> Trace | None:
        return self.store.traces.by_key(key, path) if self._keys is None or key in self._keys else None

    def _look(self, rule: Rule, trace: Trace | None) -> tuple[str, bool]:
        """Return what of the outputs isn't as the trace says, or nothing, and whether one of them is gone."""
        gone = False
        for name, path in rule.outputs.items() if trace is not None else ():
            now, kept = self.store.files.manifest(path), trace.outputs[name]["manifest"]
            gone = gone or now is None
            if now is None or now == kept or now == self._intended(path) or self._is_same_model(path, trace.outputs[name], now):
                continue
            changed = next(part for part in dict.fromkeys([*kept, *now]) if kept.get(part) != now.get(part))
            return f"{'/'.join(filter(None, [path, changed]))} isn't what was made", gone
        return "", gone

    def _is_same_model(self, path: str, output: dict[str, Any], now: Manifest) -> bool:
        """Tell whether what lies there is the model that was made, by weights, tokenizer and configs: notes may be added."""
        return output["digest"]["kind"] == "model" and digest_by(self.store, self.flow.root / path, now) == output["digest"]

    def _lost(self, rule: Rule, here: Trace | None) -> str:
        """Return an output that is neither there nor kept, or nothing."""
        kept = (self.store.files.exists(path) or here is not None and self.store.objects.has(here.outputs[name]["manifest"])
                for name, path in rule.outputs.items())
        return next((path for path, one in zip(rule.outputs.values(), kept) if not one), "")

    def _unfinished(self, rule: Rule) -> bool:
        """Tell whether a kill came while outputs of a rule were put into place."""
        return bool(self._intents) and any(path in self._intents for path in rule.outputs.values())

    def _intended(self, path: str) -> Manifest | None:
        """Return the manifest of what was being put at a path when a kill came."""
        if path not in self._intents:
            return None
        number, name = self._intents[path]
        trace = self.store.traces.by_id(number)
        return trace.outputs[name]["manifest"] if trace else None

    def _why(self, rule: Rule, now: Ingredients) -> str:
        """Return why a rule has to be made: what differs from what it was last made of."""
        placed = self._at(rule.label)
        if placed is None:
            return f"never made; {strange}" if (strange := self._strange(rule)) else "never made"
        try:
            return reason(placed[0].record["ingredients"], now, _folders(rule))
        except DdmakeError:
            return "changed; the record of what it was made of is damaged"

    def _strange(self, rule: Rule, coming: Trace | None = None) -> str:
        """Return what becomes of something that lies at an output and that ddmake didn't put there."""
        for name, path in rule.outputs.items():
            if path not in self._intents and self._at(path) is None and self.store.files.exists(path):
                if coming is not None and self.store.files.manifest(path) == coming.outputs[name]["manifest"]:
                    continue
                return f"what lies at {path} isn't ddmake's and will be put aside as {path}.bak"
        return ""

    def _source_digest(self, path: str) -> Digest | None:
        """Return the digest of a source, None where it isn't there."""
        if path not in self._sources:
            self._sources[path] = digest_of(self.store, path)
        return self._sources[path]

    def _check_llms(self, rule: Rule) -> None:
        for leaf in leaves([*rule.inputs.values(), *rule.arguments.values()]) if rule.names_models else ():
            if isinstance(leaf, LLM) and isinstance(leaf.name, str):
                wrong = check_name(leaf.name, leaf.base_url) or unsupported(leaf) or leaf.batch and no_batches(leaf)
            elif isinstance(leaf, LLM):
                wrong = unsupported(leaf)
            else:
                wrong = embedders.wrong(leaf) if isinstance(leaf, Embedder) and isinstance(leaf.name, str) else None
            wrong = wrong or isinstance(leaf, MODELS) and unfit(leaf)
            if wrong:
                raise DdfileError(f"{rule.place}: {wrong}")


def _folders(rule: Rule) -> dict[str, str]:
    """Return the folders of the models that a rule is given by a spec, by input or argument."""
    given = {**rule.inputs, **rule.arguments}
    return {name: Path(value.name.path).as_posix() for name, value in given.items()
            if isinstance(value, MODELS) and isinstance(value.name, Source)}


def digest_of(store: Store, path: str) -> Digest | None:
    """Return the digest of what lies at a path, None where nothing does."""
    manifest = store.files.manifest(path)
    return None if manifest is None else digest_by(store, store.root / path, manifest)


def digest_by(store: Store, place: Path, manifest: Manifest) -> Digest:
    """Return the digest of files with these hashes at a place; of a dataset it is remembered by the hashes."""
    if "" in manifest or artifacts.kind_of(place) != "dataset":
        return artifacts.digest(place, manifest)
    return store.traces.remembered(manifest, lambda: artifacts.digest(place, manifest))


def _refuse_waiting(verdicts: list[Verdict], wanted: list[Rule]) -> None:
    """Raise DdfileError where a target that was named waits for a source."""
    named = set(wanted)
    first = next((v for v in verdicts if v.word == "waiting" and not v.reason.startswith("behind ")), None)
    for verdict in verdicts:
        if verdict.word == "waiting" and verdict.rule in named and first is not None:
            if not first.reason.startswith("for "):
                raise DdfileError(f"{first.rule.place}: {verdict.rule.label} can't be made: {first.reason}")
            path, stop, near = first.reason.removeprefix("for ").partition(". Did ")
            place, target, near = first.rule.place, verdict.rule.label, stop[1:] + near
            raise DdfileError(f"{place}: {target} needs {path}, which isn't there and which no rule makes.{near}")
