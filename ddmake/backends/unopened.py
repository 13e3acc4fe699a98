"""A local model before it is loaded: what tells it from every other is read from its files, and may be all that is needed."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from ddmake.backends.base import Answer, Backend, Request
from ddmake.backends.models import (
    TOKENIZER,
    adapter_base,
    chat_template,
    has_tokenizer,
    identity,
    is_adapter,
    read_json,
    separator_of,
)

if TYPE_CHECKING:
    from ddmake.backends.likelihood import Likelihood, Pair
    from ddmake.ddfile.specs import LLM

Identity = Mapping[str, object]
FindFile = Callable[[str], Path | None]
FileOnHub = Callable[[str, str | None, str], Path | None]  # of a name, a revision and a file: where it lies
OnHub = Callable[[str, str | None], tuple[str, Path | None]]  # of a name and a revision: the commit, and where its configs lie


class Unopened:
    """A Backend that is opened by `open_model` when something is to be asked, and closed when that is done."""

    writes_users = True  # as all local models do, which have a chat template

    def __init__(self, told: Identity, open_model: Callable[[], Backend], file: FindFile):
        self._told, self._open, self.file = told, open_model, file  # `file` finds one of the model's files by name

    def identity(self) -> Identity:
        """Return what tells the model from every other."""
        return self._told

    def answers(self, requests: Iterable[tuple[int, int, Request]]) -> Iterator[tuple[int, Answer]]:
        """Answer requests as the model does. Raises DdmakeError where it can't be loaded."""
        source = iter(requests)
        for first in source:
            opened = self._open()
            try:
                yield from opened.answers(chain((first,), source))
            finally:
                opened.close()

    def likelihoods(self, pairs: Sequence["Pair"]) -> list["Likelihood | None"]:
        """Tell how likely texts are, as the model does. Raises DdmakeError where it can't be loaded."""
        opened = self._open()
        try:
            return opened.likelihoods(pairs)
        finally:
            opened.close()

    def close(self) -> None:
        """Do nothing: what was opened has been closed."""


def identity_by_files(spec: "LLM", model: Path | str, adapter: Path | None, separator: str | None, on_hub: OnHub,
                      sha: Callable[[str], str]) -> Identity | None:
    """Return the identity that a model will have once it is loaded; None where its files aren't here to tell.

    `sha` hashes a file. Raises DdmakeError for an adapter without a base, MissingExtra where weights can't be made smaller.
    """
    base, revision = adapter_base(model) if is_adapter(model) else (model, None)
    commit, under = (None, Path(base)) if Path(base).is_dir() else on_hub(str(base), revision or spec.revision)
    if under is None:
        return None
    folders = [folder for folder in (adapter, model, under) if folder is not None and has_tokenizer(folder)] or [under]
    tokenizer = next((folder for folder in (model, under) if has_tokenizer(folder)), under)
    separator = separator_of(read_json(Path(folders[0]), TOKENIZER)) if separator is None else separator
    return identity(model, adapter, commit=commit, dtype=spec.dtype, quantize=spec.quantize,
                    template=chat_template(Path(tokenizer)), separator=separator, sha=sha)


def finder(model: Path | str, revision: str | None, on_hub: FileOnHub) -> FindFile:
    """Return what finds a file of a model by its name: in its folder, or that of the base which an adapter names."""
    base, pinned = adapter_base(model) if is_adapter(model) else (model, None)

    def find(file: str) -> Path | None:
        places = [Path(folder) / file for folder in (model, base) if Path(folder).is_dir()]
        found = next((place for place in places if place.is_file()), None)
        return found if found is not None or Path(base).is_dir() else on_hub(str(base), pinned or revision, file)

    return find
