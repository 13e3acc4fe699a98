"""Publishing to the Hugging Face Hub: made when named, and never restored, since what it does it does outside."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

from ddmake.cards.wanted import Wanted, check
from ddmake.ddfile.inputs import FREE, Paths
from ddmake.ddfile.recipe import Recipe
from ddmake.ddfile.registry import here
from ddmake.ddfile.rule import Options, Rule
from ddmake.ddfile.target import Source, Target, suffix
from ddmake.errors import DdfileError
from ddmake.store import Store, open_store

if TYPE_CHECKING:
    from ddmake.cards.upload import Upload

RECORD = "published.json"

Message = Annotated[str | None, FREE]  # says how the commit is called, and nothing of what is published


class Publishing(Recipe):
    """A recipe whose name on the Hub and whose input are checked where its rule is declared."""

    def __call__(self, outputs: str | Mapping[str, str], *inputs: Any, **arguments: Any) -> Target:
        """Declare a rule, or a pattern of rules, and return its target."""
        made = super().__call__(outputs, *inputs, **arguments)
        if isinstance(made.rule, Rule):
            _check(made.rule)
        return made


def _publishing(function: Callable[..., Any]) -> Publishing:
    return Publishing(function, "step", Options(version="1", manual=True, effect=True))


@_publishing
def publish(target: Paths, *, repo: str, private: bool | None = None, results: Paths = (), license: str | None = None,
            pull_request: bool = False, merged: bool = False, revision: str | None = None,
            message: Message = None, output: Path) -> None:
    """Upload a dataset or a model to the Hugging Face Hub, with its card and its lineage.

    A dataset becomes Parquet, several in a dict its splits; a model goes as it lies there, an adapter alone or, `merged`, as a
    whole model with its base. What it makes here tells where it is: repository, commit, hashes of the files.
    """
    from ddmake.cards import hub

    wanted = Wanted(repo, private, pull_request, merged, revision, license, message)
    with closing(open_store(Path.cwd())) as store, TemporaryDirectory(prefix="publish-", dir=store.folder / "scratch") as scratch:
        upload = prepared(store, target, wanted, results, Path(scratch))
        done = hub.send(upload)
    print(f"published {done.pull_request or done.url}", flush=True)
    files = {file.name: {"size": file.size, "sha256": file.sha} for file in upload.files}
    told = {**asdict(done), "of": upload.of, "files": files}
    place = output if suffix(output) else output / RECORD
    place.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def prepared(store: Store, target: Any, wanted: Wanted, results: Any, scratch: Path) -> "Upload":
    """Return what would be sent of a target, a dict of them by split, with what has to be written for it in `scratch`."""
    from ddmake.cards.upload import prepare  # what a Ddfile that is loaded needn't load

    parts = {name: str(path) for name, path in target.items()} if isinstance(target, Mapping) else {"": str(target)}
    named = results if isinstance(results, Sequence) and not isinstance(results, str) else [results]
    return prepare(store, parts, wanted, [str(path) for path in named], scratch, merged)


def merged(adapter: Path, output: Path) -> None:
    """Write the whole model of an adapter and its base, in full precision."""
    from ddmake.backends.models import need

    for package in ("transformers", "peft"):
        need(package, "train", "publish(merged=True)")
    from ddmake.trainers import merging

    merging.merge(adapter, "float32", output)


def _check(rule: Rule) -> None:
    """Raise DdfileError for what can't be published, as far as the Ddfile tells."""
    given, names = rule.inputs["target"], Wanted.__dataclass_fields__
    for one in given.values() if isinstance(given, Mapping) else [given]:
        if not isinstance(one, Source):
            raise DdfileError(f"{here()}: publish takes a target, or a dict of them by split. A view has no card of its own: "
                              "make it a target by copy(…).")
    try:
        check(Wanted(**{name: value for name, value in rule.arguments.items() if name in names}))
    except DdfileError as error:
        raise DdfileError(f"{here()}: {error}") from None
