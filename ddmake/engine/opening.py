"""Opening what a recipe is given: datasets, folders, models, llms."""

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddmake import toys
from ddmake.artifacts import views
from ddmake.artifacts.digest import kind_of
from ddmake.backends import local_model, open_backend
from ddmake.backends.base import Answer, Backend
from ddmake.backends.embedders import as_llm
from ddmake.backends.hosted import opened as at_service
from ddmake.backends.hub import commit, configs, file_of, keep, snapshot
from ddmake.backends.models import adapter_base, is_adapter, weights_bytes
from ddmake.backends.providers import is_remote
from ddmake.backends.unopened import Unopened, finder, identity_by_files
from ddmake.calls.cache import Calls, Payer
from ddmake.calls.client import Line, Remote
from ddmake.calls.mixture import OpenedMixture
from ddmake.calls.model import Manner, OpenedLLM
from ddmake.calls.usage import Usage
from ddmake.ddfile.inputs import ASKED, PATHS, STORED, marked
from ddmake.ddfile.lock import MAIN, HubName
from ddmake.ddfile.rule import Rule
from ddmake.ddfile.specs import LLM, Embedder, Mixture
from ddmake.ddfile.target import ModelName, Source, View
from ddmake.ddfile.workflow import Workflow
from ddmake.engine import hub
from ddmake.engine.recipes import view_failed
from ddmake.errors import DdfileError, placed
from ddmake.store import Store
from ddmake.store.failed import Failures

if TYPE_CHECKING:
    from ddmake.calls.embedding import OpenedEmbedder, Vectors


@dataclass(frozen=True)
class Way:
    """How a job's llms are asked: in what manner, by the caller at which address; where failed rows are kept, and views.

    On another machine than the head's, answers are kept `apart`, in a folder of the job's own, for the head to take in.
    """

    manner: Manner = Manner()
    caller: str | None = None
    failed: Path | None = None
    scratch: Path | None = None  # where what views make of rows may lie for as long as the job runs
    apart: Path | None = None


class Opener:
    """Opens the inputs and arguments of one job, and keeps count of what its llms are asked.

    To `look_only` is to open llms for what is known of them: one whose files aren't there to tell stays a spec then, and so does
    an embedder that runs here.
    """

    def __init__(self, flow: Workflow, store: Store, rule: Rule, tell: Callable[[int, int, str], None], way: Way = Way(),
                 look_only: bool = False):
        self.flow, self.store, self.rule, self.tell, self.way, self.look_only = flow, store, rule, tell, way, look_only
        self.usage: dict[str, Usage] = {}
        self.remarks: dict[str, dict[str, str]] = {}  # on llms, by name: what cards tell of them beside their usage
        self._calls: Calls | None = None
        self._line: Line | None = None
        self._views: Path | None = None
        self._vectors: Vectors | None = None
        self._failures = Failures(way.failed) if way.failed is not None else None
        self._llms: list[OpenedLLM] = []
        self._kept = way.apart or store.folder  # where answers are kept
        self._behind = store.folder if way.apart else None  # where more of them are found

    def given(self) -> dict[str, Any]:
        """Return the rule's inputs and arguments, opened; the inputs of a recipe that asks for paths stay paths."""
        takes = self.rule.recipe.signature.parameters
        return {name: self._given(value, takes[name].annotation)
                for name, value in {**self.rule.inputs, **self.rule.arguments}.items()}

    def _given(self, value: Any, annotation: Any) -> Any:
        if marked(annotation, PATHS):
            return _paths(value)
        if marked(annotation, ASKED):
            return self._asked(value)
        rows = self.stored(value) if marked(annotation, STORED) else None
        return self.open(value) if rows is None else rows

    def _asked(self, value: Any) -> Any:
        """Return models as llms: one that isn't given as one is asked greedily, as the rule's arguments have it."""
        if isinstance(value, dict):
            return {name: self._asked(model) for name, model in value.items()}
        if isinstance(value, list):
            return [self._asked(model) for model in value]
        if not isinstance(value, (Source, ModelName)):
            return self.open(value)
        name = value if isinstance(value, Source) else value.name if value.name in toys.NAMES else f"hf/{value.name}"
        told = self.rule.arguments.get("separator")
        spec = LLM(name, temperature=0, max_tokens=self.rule.arguments.get("max_tokens"))
        return self._llm(spec, separator=None if told == "\n" else told)

    def stored(self, value: Any) -> Any:
        """Return a dataset's rows without `datasets`; None where that takes it, or it is none."""
        source, steps = (value.of, value.steps) if isinstance(value, View) else (value, ())
        path = Path(source.path) if isinstance(source, Source) and self.flow.producer(source) is not None else None
        if path is None or kind_of(path) != "dataset":
            return None
        from ddmake.artifacts.stored import rows_at

        try:
            return rows_at(path, steps)
        except DdfileError as error:
            raise placed(self.rule.place, error) from None

    def open(self, value: Any) -> Any:
        """Return a value with everything in it opened; paths are relative to the Ddfile's folder."""
        if isinstance(value, ModelName):
            value = self.flow.resolve(value)
        if isinstance(value, Source):
            return self._source(value)
        if isinstance(value, View):
            return self.view(value.of, value.steps)
        if isinstance(value, ModelName):
            return self._model(value)
        if isinstance(value, LLM):
            return self._llm(value)
        if isinstance(value, Mixture):
            return self._mixture(value)
        if isinstance(value, Embedder):
            return self._embedder(value) if is_remote(value) or not self.look_only else value
        if isinstance(value, dict):
            return {key: self.open(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.open(item) for item in value]
        return value

    def view(self, source: Source, steps: views.Steps) -> Any:
        """Return a dataset seen through a view's steps."""
        rows = self._source(source)
        if isinstance(rows, Path):
            raise DdfileError(f"{self.rule.place}: .{steps[0][0]}(): {source.path} holds no rows, and views are of datasets.")
        try:
            return views.apply(rows, steps, source.path, self._new_file)
        except DdfileError as error:
            raise placed(self.rule.place, error) from None
        except Exception as error:  # of the user's own functions
            raise view_failed(self.rule, source.path, rows, error) from error

    def _new_file(self) -> Path:
        """Return where what a view makes of rows can lie while they are read: in the job's scratch folder, with which it goes."""
        if self._views is None:
            scratch = self.store.folder / "scratch" if self.way.scratch is None else self.way.scratch
            scratch.mkdir(parents=True, exist_ok=True)
            self._views = Path(tempfile.mkdtemp(prefix="views-", dir=scratch))
        return self._views / f"{len(os.listdir(self._views))}.arrow"

    def close(self) -> None:
        """Commit the calls that came, and let go of models, of the caller and of what views wrote."""
        for llm in self._llms:
            if llm.rough is not None:
                self.remarks[llm.payer.llm] = {"rough": llm.rough}
            llm.backend.close()
        for opened in (self._line, self._calls, self._failures, self._vectors):
            if opened is not None:
                opened.close()
        if self._views is not None:
            shutil.rmtree(self._views, ignore_errors=True)

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

    def _llm(self, spec: LLM, separator: str | None = None) -> OpenedLLM | LLM:
        name = Path(spec.name.path).as_posix() if isinstance(spec.name, Source) else spec.name
        backend = self._remote(spec) if is_remote(spec) else self._local(spec, separator)
        if backend is None:
            return spec
        manner = replace(self.way.manner, cache=self._cached(spec))
        usage = self.usage.setdefault(name, Usage())
        if self._calls is None:
            self._calls = Calls(self._kept, behind=self._behind)
        opened = OpenedLLM(spec, backend, self._calls, usage, lambda done, asked: self.tell(done, 0, "answers"), manner,
                           Payer(name, self.rule.label, "local"), lambda *failed: self._keep_failed(name, *failed))
        self._llms.append(opened)
        return opened

    def _mixture(self, spec: Mixture) -> OpenedMixture | Mixture:
        """Return a mixture of opened llms; the spec where one of them stays a spec, since a mixture is known as a whole."""
        members = [opened for opened in map(self._llm, spec) if isinstance(opened, OpenedLLM)]
        return OpenedMixture(spec, members, spec.names(self.flow.into)) if len(members) == len(spec.members) else spec

    def _embedder(self, spec: Embedder) -> "OpenedEmbedder":
        from ddmake.calls.embedding import LocalEncoder, OpenedEmbedder, RemoteEncoder, Vectors

        name = Path(spec.name.path).as_posix() if isinstance(spec.name, Source) else spec.name
        usage = self.usage.setdefault(name, Usage())
        if is_remote(spec):
            encoder = RemoteEncoder(spec, self._remote(as_llm(spec)), usage)
        else:
            encoder = LocalEncoder(spec, self._embedders_folder(spec), usage)
        if self._vectors is None and self._cached(spec):
            self._vectors = Vectors(self._kept, self._behind)
        vectors = self._vectors if self._cached(spec) else None
        return OpenedEmbedder(spec, encoder, vectors, usage, lambda done: self.tell(done, 0, "texts"))

    def _embedders_folder(self, spec: Embedder) -> Path:
        """Return the folder of an embedder that runs here: a target's, one that it names, or the local copy of the Hub's."""
        if isinstance(spec.name, Source):
            return Path(spec.name.path)
        name = hub.of_llm(self.flow, spec).get("name")
        return Path(spec.name.partition("/")[2]) if name is None else snapshot(self.flow.root, name)

    def _remote(self, spec: LLM) -> Remote:
        if self._line is None:
            self._line = Line(self.way.caller, self.rule.label, self._kept)
        spec = at_service(spec)
        adapter = Path(spec.adapter.path).as_posix() if isinstance(spec.adapter, Source) else spec.adapter
        spec = replace(spec, adapter=adapter, revision=hub.commit_of(self.flow, self.rule, spec) or spec.revision)
        return Remote(spec, self._line, self._cached(spec), lambda note: self.tell(0, 0, note))

    def _local(self, spec: LLM, separator: str | None) -> Backend | None:
        """Return what serves an llm on this machine, not yet loaded; None where that would be needed to look at it."""
        adapter = Path(spec.adapter.path) if isinstance(spec.adapter, Source) else spec.adapter
        if "adapter" in (names := hub.of_llm(self.flow, spec)):
            if self.look_only:
                return None
            adapter = snapshot(self.flow.root, names["adapter"])
        spec, model = replace(spec, revision=hub.commit_of(self.flow, self.rule, spec) or spec.revision), local_model(spec)
        if model is None:
            return None if self.look_only and spec.name != "echo" else open_backend(spec)
        if isinstance(model, str):
            model = self._adapter_alone(HubName("model", model, spec.revision or MAIN)) or model
        if is_adapter(model):
            spec = replace(spec, revision=self._revision_under(model))
        told = identity_by_files(spec, model, adapter, separator, self._on_hub, self.store.files.sha)
        file = finder(model, spec.revision, self._file_on_hub)
        return told and Unopened(told, lambda: open_backend(spec, model, adapter, separator), file)

    def _adapter_alone(self, name: HubName) -> Path | None:
        """Return the folder of a model on the Hub that is an adapter alone; None for any other, and where it isn't known yet."""
        folder = configs(self.flow.root, name, fetch=not self.look_only)
        if folder is None or not is_adapter(folder) or (folder / "config.json").is_file():
            return None
        return folder if weights_bytes(folder) else None if self.look_only else snapshot(self.flow.root, name)

    def _revision_under(self, adapter: Path | str) -> str | None:
        """Return the commit of the base that an adapter names on the Hub, which Ddfile.lock then holds; None for a folder."""
        base, revision = adapter_base(adapter)
        if not isinstance(base, str):
            return None
        found = commit(self.flow.root, HubName("model", base, revision or MAIN))
        if not self.look_only:
            keep(self.flow.root)
        return found

    def _on_hub(self, name: str, revision: str | None) -> tuple[str, Path | None]:
        """Return the commit of a model on the Hub, and where its configs lie."""
        found = HubName("model", name, revision or MAIN)
        return commit(self.flow.root, found), configs(self.flow.root, found, fetch=not self.look_only)

    def _file_on_hub(self, name: str, revision: str | None, file: str) -> Path | None:
        """Return where a file of a model on the Hub lies; None for one that it hasn't."""
        return file_of(self.flow.root, HubName("model", name, revision or MAIN), file, fetch=not self.look_only)

    def _cached(self, spec: LLM | Embedder) -> bool:
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
