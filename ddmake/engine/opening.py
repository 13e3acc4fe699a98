"""Opening what a recipe is given: datasets, folders, models, llms."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ddmake import toys
from ddmake.artifacts import views
from ddmake.artifacts.digest import kind_of
from ddmake.backends import open_backend
from ddmake.backends.base import Answer, Backend
from ddmake.backends.hub import snapshot
from ddmake.backends.providers import is_remote
from ddmake.calls.cache import Calls, Payer
from ddmake.calls.client import Line, Remote
from ddmake.calls.model import Manner, OpenedLLM, Usage
from ddmake.ddfile.inputs import PATHS, STORED, marked
from ddmake.ddfile.rule import Rule
from ddmake.ddfile.specs import LLM
from ddmake.ddfile.target import ModelName, Source, View
from ddmake.ddfile.workflow import Workflow
from ddmake.engine import hub
from ddmake.store import Store
from ddmake.store.failed import Failures


@dataclass(frozen=True)
class Way:
    """How a job's llms are asked: in what manner, by the caller at which address; where failed rows are kept."""

    manner: Manner = Manner()
    caller: str | None = None
    failed: Path | None = None


class Opener:
    """Opens the inputs and arguments of one job, and keeps count of what its llms are asked.

    To `look_only` is to open llms for what is known of them: a model that would have to be loaded stays a spec then.
    """

    def __init__(self, flow: Workflow, store: Store, rule: Rule, tell: Callable[[int, int, str], None], way: Way = Way(),
                 look_only: bool = False):
        self.flow, self.store, self.rule, self.tell, self.way, self.look_only = flow, store, rule, tell, way, look_only
        self.usage: dict[str, Usage] = {}
        self._calls: Calls | None = None
        self._line: Line | None = None
        self._failures = Failures(way.failed) if way.failed is not None else None
        self._llms: list[OpenedLLM] = []

    def given(self) -> dict[str, Any]:
        """Return the rule's inputs and arguments, opened; the inputs of a recipe that asks for paths stay paths."""
        takes = self.rule.recipe.signature.parameters
        return {name: self._given(value, takes[name].annotation)
                for name, value in {**self.rule.inputs, **self.rule.arguments}.items()}

    def _given(self, value: Any, annotation: Any) -> Any:
        if marked(annotation, PATHS):
            return _paths(value)
        rows = self.stored(value) if marked(annotation, STORED) else None
        return self.open(value) if rows is None else rows

    def stored(self, value: Any) -> Any:
        """Return a dataset's rows without `datasets`; None where that takes it, or it is none."""
        source, steps = (value.of, value.steps) if isinstance(value, View) else (value, ())
        path = Path(source.path) if isinstance(source, Source) and self.flow.producer(source) is not None else None
        if path is None or kind_of(path) != "dataset":
            return None
        from ddmake.artifacts.stored import rows_at

        return rows_at(path, steps)

    def open(self, value: Any) -> Any:
        """Return a value with everything in it opened; paths are relative to the Ddfile's folder."""
        if isinstance(value, ModelName):
            value = self.flow.resolve(value)
        if isinstance(value, Source):
            return self._source(value)
        if isinstance(value, View):
            return views.apply(self._source(value.of), value.steps)
        if isinstance(value, ModelName):
            return self._model(value)
        if isinstance(value, LLM):
            return self._llm(value)
        if isinstance(value, dict):
            return {key: self.open(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.open(item) for item in value]
        return value

    def close(self) -> None:
        """Commit the calls that came, and let go of models and of the caller."""
        for llm in self._llms:
            llm.backend.close()
        for opened in (self._line, self._calls, self._failures):
            if opened is not None:
                opened.close()

    def _source(self, source: Source) -> Any:
        path = Path(source.path)
        if self.flow.producer(source) is None or kind_of(path) != "dataset":
            return path
        import datasets

        datasets.disable_caching()  # its cache would lie in the artifact, which would then count as edited
        return datasets.load_from_disk(str(path))

    def _model(self, model: ModelName) -> Path:
        """Return a toy's folder, or the local copy of what a name on the Hub stands for."""
        name = hub.of_model(self.flow, self.rule, model)
        return toys.folder(model.name) if name is None else snapshot(self.flow.root, name)

    def _llm(self, spec: LLM) -> OpenedLLM | LLM:
        remote = is_remote(spec)
        if self.look_only and not remote and spec.name != "echo":
            return spec
        name = Path(spec.name.path).as_posix() if isinstance(spec.name, Source) else spec.name
        backend = self._remote(spec) if remote else self._local(spec)
        manner = replace(self.way.manner, cache=self._cached(spec))
        usage = self.usage.setdefault(name, Usage())
        if self._calls is None:
            self._calls = Calls(self.store.folder)
        opened = OpenedLLM(spec, backend, self._calls, usage, lambda done, asked: self.tell(done, 0, "answers"), manner,
                           Payer(name, self.rule.label, "local"), lambda *failed: self._keep_failed(name, *failed))
        self._llms.append(opened)
        return opened

    def _remote(self, spec: LLM) -> Remote:
        if self._line is None:
            self._line = Line(self.way.caller, self.rule.label, self.store.folder)
        return Remote(spec, self._line, self._cached(spec), lambda note: self.tell(0, 0, note))

    def _local(self, spec: LLM) -> Backend:
        model = Path(spec.name.path) if isinstance(spec.name, Source) else None
        adapter = Path(spec.adapter.path) if isinstance(spec.adapter, Source) else spec.adapter
        if "adapter" in (names := hub.of_llm(self.flow, spec)):
            adapter = snapshot(self.flow.root, names["adapter"])
        return open_backend(replace(spec, revision=hub.commit_of(self.flow, self.rule, spec) or spec.revision), model, adapter)

    def _cached(self, spec: LLM) -> bool:
        return spec.cache is not False and self.rule.options.cache is not False

    def _keep_failed(self, llm: str, number: int, reason: str, answer: Answer, row: Mapping[str, Any] | None) -> None:
        if self._failures is not None:
            self._failures.add(number, llm, reason, answer.finish_reason, str(answer), row or {})


def _paths(value: Any) -> Any:
    """Return sources as paths, however deep."""
    if isinstance(value, dict):
        return {key: _paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_paths(item) for item in value]
    return Path(value.path) if isinstance(value, Source) else value
