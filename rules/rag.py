"""Answers from documents that are found for each question: `rag`."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ddmake import step
from ddmake.ddfile.asking import Asking, Embedding, NotYet
from ddmake.ddfile.inputs import Prompt, Schema, StoredRows
from ddmake.ddfile.specs import LLM, Embedder
from ddmake.errors import DdfileError, DdmakeError
from ddmake.rules.answering import OnError, Taking, answered
from ddmake.rules.columns import added, free, need
from ddmake.rules.fitting import Fitting, nearest
from ddmake.rules.retrieval import FOUND, retrieve
from ddmake.rules.texts import beside, each
from ddmake.rules.wording import Turn, Wording

if TYPE_CHECKING:
    import pyarrow as pa

    from ddmake.artifacts.rows import Batches

Inputs, Arguments = Mapping[str, Any], Mapping[str, Any]
Parse = Callable[..., Any]  # (text, row) -> a value, or a dict of columns

SEEN = ("question", "texts", "ids", "scores")  # what the prompt sees beside the row's columns


def _told(inputs: Inputs, arguments: Arguments) -> list[str] | None:
    """Tell the columns of `rag`."""
    columns = inputs["rows"]
    if arguments["context"] is not None and arguments["context"] < 1:
        raise DdfileError(f"context is a number of at least 1, not {arguments['context']}.")
    if not 0 <= arguments["min_texts"] <= arguments["k"]:
        raise DdfileError(f"min_texts is a number from 0 to k, not {arguments['min_texts']}.")
    need(columns, arguments["question"], "of questions")
    more = {"approximate": False, "query": arguments["question"]}
    retrieve.columns({"queries": columns and [one for one in columns if one not in FOUND], "documents": inputs["documents"]},
                     {**arguments, **more})
    if arguments["sources"]:
        free(columns, FOUND, "rag")
        columns = added(columns, *FOUND)
    Wording.of(arguments).check(added(columns, *SEEN))
    taking = Taking.of(arguments, arguments["column"])
    taking.check(columns)
    return taking.told(columns)


def _asking(inputs: Inputs, arguments: Arguments) -> Iterator[Asking | Embedding]:
    """Tell what `rag` asks: each row once, by what will be found for it."""
    yield from retrieve.asks({"queries": inputs["rows"], "documents": inputs["documents"]},
                             {**arguments, "query": arguments["question"]})
    yield Asking(arguments["llm"], _unknown(), arguments["schema"])


def _unknown() -> Iterator[list[Turn]]:
    raise NotYet("which texts are found for a question isn't known before it runs.")
    yield


@step(version="1", columns=_told, asks=_asking)
def rag(rows: StoredRows, documents: StoredRows, *, llm: LLM, embedder: Embedder | None = None, k: int = 5, min_texts: int = 0,
        question: str = "question", text: str = "text", embedding: str = "embedding", id: str | None = None,
        sources: bool = False, context: int | None = None, prompt: Prompt = "rag.j2", system: Prompt | None = None,
        variables: Mapping[str, Any] | None = None, column: str = "answer", schema: Schema | None = None,
        parse: Parse | None = None, meta: bool = False, accept: Collection[str] = (), on_error: OnError = "keep") -> "Batches":
    """Find the k documents nearest to each question, show them to an llm, and add its answer as a column.

    Vectors stand in a column `embedding`, of the rows as of the documents; where it isn't there, the embedder makes them of the
    columns `question` and `text`. Fewer texts are shown where the llm's context has no room for all, the nearest ones, but never
    fewer than `min_texts`: the model then refuses the row, which fails. `context` is the number of tokens that the llm takes,
    where ddmake doesn't know it. With `sources`, `ids`, `texts` and `scores` of what was shown are added as lists, the nearest
    first; ids are the values of the documents' column `id`, else their numbers. A null question finds nothing.

    The prompt sees `question`, whatever its column is called, `texts`, `ids` and `scores`, the nearest first, and the row's
    columns. This is retrieval-augmented generation (Lewis et al. 2020, arXiv 2005.11401), without training.
    """
    arguments = locals()
    if len(documents) < min_texts:
        raise DdmakeError(f"min_texts={min_texts}, and there are {len(documents)} documents. Give more, or lower min_texts.")
    table = nearest(rows, documents, embedder=embedder, k=k, query=question, text=text, embedding=embedding)
    found = _Found(table, _column(documents, text), None if id is None else _column(documents, id))
    if sources:
        rows = _WithSources(rows, found, [count for _, count in _prompts(rows, found, arguments)])
    asking = Asking(llm, (turns for turns, _ in _prompts(rows, found, arguments)), schema)
    return answered(rows, asking, Taking.of(arguments, arguments["column"]))


def _column(rows: Any, name: str) -> "pa.ChunkedArray":
    return rows.with_format("arrow", columns=[name])[0:len(rows)].column(name)


@dataclass(frozen=True)
class _Found:
    """What was found for each row: the numbers of documents and their scores. Texts are read when they are shown."""

    table: "pa.Table"
    texts: "pa.ChunkedArray"
    ids: "pa.ChunkedArray | None"

    def of(self, row: int, most: int | None = None) -> dict[str, list[Any]]:
        """Return the ids, texts and scores of what was found for a row, so many at most."""
        numbers, scores = (self.table.column(name)[row].as_py()[:most] for name in ("ids", "scores"))
        ids = numbers if self.ids is None else [self.ids[number].as_py() for number in numbers]
        return dict(zip(FOUND, (ids, [self.texts[number].as_py() for number in numbers], scores)))

    def columns(self, first: int, counts: Sequence[int]) -> dict[str, "pa.Array"]:
        """Return columns for the rows from `first` on, each with so many of its documents."""
        import pyarrow as pa

        rows = [self.of(number, count) for number, count in enumerate(counts, first)]
        kinds = (pa.int64() if self.ids is None else self.ids.type, self.texts.type, pa.float32())
        return {name: pa.array([row[name] for row in rows], pa.list_(kind)) for name, kind in zip(FOUND, kinds)}


@dataclass(frozen=True)
class _WithSources:
    """Rows with what was shown beside them, as far as `answered` reads them; the texts of some rows at once are held."""

    rows: Any
    found: _Found
    counts: Sequence[int]

    @property
    def column_names(self) -> list[str]:
        """Return the names of the columns."""
        return [*self.rows.column_names, *FOUND]

    @property
    def features(self) -> Any:
        """Return what `datasets` says of the rows' own columns."""
        return self.rows.features

    def __len__(self) -> int:
        return len(self.rows)

    def with_format(self, form: str, columns: Sequence[str] | None = None) -> Any:
        """Return the rows as Arrow's; some of their own columns, or all with those beside them."""
        shown = self.rows.with_format(form, columns=columns)
        return shown if columns is not None else _WithSources(shown, self.found, self.counts)

    def __getitem__(self, at: slice) -> "pa.Table":
        import pyarrow as pa

        part = self.rows[at].combine_chunks().to_batches() or [pa.RecordBatch.from_pylist([], self.rows[at].schema)]
        return pa.Table.from_batches([beside(part[0], self.found.columns(at.start, self.counts[at]))])


def _prompts(rows: Any, found: _Found, arguments: Arguments) -> Iterator[tuple[list[Turn], int]]:
    """Yield the chat messages for each row, and how many texts they show."""
    from ddmake.calls.context import context_of

    wording, question = Wording.of(arguments), arguments["question"]
    wording.check(added(rows.column_names, *SEEN))
    fitting = Fitting(context_of(arguments["llm"], arguments["context"]), arguments["min_texts"])
    columns = [name for name in wording.reads(rows.column_names) if name not in FOUND]
    for number, row in enumerate(each(rows, list(dict.fromkeys([*columns, question])))):
        near = found.of(number)
        says = partial(_worded, wording, {**row, "question": row[question]}, near)
        count = fitting.most(says, len(near["ids"]))
        yield says(count), count


def _worded(wording: Wording, seen: Mapping[str, Any], near: Mapping[str, Sequence[Any]], count: int) -> list[Turn]:
    """Return the chat messages for one row with so many of the texts that are near."""
    return wording.turns({**seen, **{name: values[:count] for name, values in near.items()}})
