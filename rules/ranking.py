"""How good a search is: which of the relevant documents it finds, and how near the top."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isfinite, log2
from typing import Any

from ddmake import step
from ddmake.errors import DdfileError, DdmakeError
from ddmake.rules.columns import need
from ddmake.rules.scoring import check_share, columns, numbers, quotient

Inputs, Arguments = Mapping[str, Any], Mapping[str, Any]
Grades = Mapping[str, float]  # of the relevant documents, by id: how relevant each is
Measure = Callable[[Sequence[str], Grades, int], float]


def _ranked(inputs: Inputs, arguments: Arguments) -> list[str]:
    """Tell the columns of `evaluate_retrieval`."""
    searches = inputs["retrieved"]
    for there in searches.values() if isinstance(searches, Mapping) else [searches]:
        need(there, arguments["ids"], "of the ids that were found")
        need(there, arguments["relevant"], "of the relevant ids")
    check_share(arguments["interval"])
    k = arguments["k"]
    if not k or min(k) < 1 or len(set(k)) < len(k):
        raise DdfileError(f"k holds different numbers of documents, each at least 1, not {list(k)}.")
    names = [f"{name}@{most}" for name in MEASURES for most in k] + ["mrr"]
    if arguments["interval"] is not None:
        names = [column for name in names for column in (name, f"{name}_low", f"{name}_high")]
    return [*(["retriever"] if isinstance(searches, Mapping) else []), *names, "queries", "left_out"]


@step(version="1", columns=_ranked)
def evaluate_retrieval(retrieved: Any, *, ids: str = "ids", relevant: str = "relevant", k: Sequence[int] = (1, 5, 10),
                       interval: float | None = None, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Tell how well searches find the relevant documents: one row, or of a dict of searches a row each, named in `retriever`.

    A search is what `retrieve` gives: a row a query, with the `ids` that were found, the best first, and a column `relevant`: a
    list of ids, or of {"id": …, "grade": …}, or {id: grade}; without a grade it is 1, and 0 or less is not relevant. Ids are
    compared as texts, and one that is found again counts once. In points of 100, as means over queries: `recall@k`, the share of
    the relevant that are among the first k; `precision@k`, the share of k that is relevant; `ndcg@k`, with the grade as gain and
    the logarithm of the rank as discount (Järvelin and Kekäläinen 2002, "Cumulated gain-based evaluation of IR techniques");
    `mrr`, one over the rank of the first relevant one (Voorhees 1999). A k that no query has so many ids for gives null. Queries
    without relevant documents are `left_out` and counted. `interval` is as in `evaluate`.
    """
    searches = retrieved if isinstance(retrieved, Mapping) else {None: retrieved}
    for name, rows in searches.items():
        queries = [(_found(row[ids], ids), _grades(row[relevant], relevant)) for row in rows]
        judged = [(found, grades) for found, grades in queries if grades]
        most = max((len(found) for found, _ in judged), default=0)
        scored: dict[str, float | None] = {}
        for label, measure, at in _measures(k, most):
            parts = numbers(None if at > most and label != "mrr" else 100 * measure(*query, at) for query in judged)
            scored |= columns(label, quotient, parts, interval, seed)
        for at in (at for at in k if judged and at > most):
            print(f"evaluate_retrieval: no query{'' if name is None else f' of {name}'} has {at} ids, the longest has {most}: "
                  f"@{at} is null", flush=True)
        told = {} if name is None else {"retriever": name}
        yield {**told, **scored, "queries": len(judged), "left_out": len(queries) - len(judged)}


def _measures(k: Sequence[int], most: int) -> Iterator[tuple[str, Measure, int]]:
    """Yield the columns, each with how it is measured and over how many ids."""
    yield from ((f"{name}@{at}", measure, at) for name, measure in MEASURES.items() for at in k)
    yield "mrr", _reciprocal_rank, most


def _found(value: Any, column: str) -> list[str]:
    """Return the ids that a query found, each once, the best first."""
    if value is not None and not isinstance(value, (list, tuple)):
        raise DdmakeError(f"evaluate_retrieval: column {column!r} holds {value!r}; a list of ids is needed.")
    return list(dict.fromkeys(str(one) for one in value or () if one is not None))


def _grades(value: Any, column: str) -> Grades:
    """Return the documents that are relevant. Raises DdmakeError for a grade that is no number."""
    pairs = value.items() if isinstance(value, Mapping) else [_pair(one, column) for one in _listed(value, column)]
    found = {}
    for name, grade in pairs:
        if grade is not None and (not isinstance(grade, (int, float)) or not isfinite(grade)):
            raise DdmakeError(f"evaluate_retrieval: column {column!r} grades {name!r} with {grade!r}; a number is needed.")
        if name is not None and grade is not None and grade > 0:
            found[str(name)] = float(grade)
    return found


def _listed(value: Any, column: str) -> Sequence[Any]:
    if value is not None and not isinstance(value, (list, tuple)):
        raise DdmakeError(f"evaluate_retrieval: column {column!r} holds {value!r}; ids are needed: a list, or grades by id.")
    return value or ()


def _pair(one: Any, column: str) -> tuple[Any, Any]:
    if not isinstance(one, Mapping):
        return one, 1
    if "id" not in one:
        raise DdmakeError(f"evaluate_retrieval: column {column!r} lists {dict(one)!r}, which has no 'id'.")
    return one["id"], one.get("grade", 1)


def _recall(found: Sequence[str], grades: Grades, k: int) -> float:
    return _hits(found, grades, k) / len(grades)


def _precision(found: Sequence[str], grades: Grades, k: int) -> float:
    return _hits(found, grades, k) / k


def _hits(found: Sequence[str], grades: Grades, k: int) -> int:
    return sum(one in grades for one in found[:k])


def _ndcg(found: Sequence[str], grades: Grades, k: int) -> float:
    return _gain([grades.get(one, 0.0) for one in found[:k]]) / _gain(sorted(grades.values(), reverse=True)[:k])


def _gain(grades: Sequence[float]) -> float:
    return sum(grade / log2(rank + 2) for rank, grade in enumerate(grades))


def _reciprocal_rank(found: Sequence[str], grades: Grades, k: int) -> float:
    return next((1 / rank for rank, one in enumerate(found, 1) if one in grades), 0.0)


MEASURES: Mapping[str, Measure] = {"recall": _recall, "precision": _precision, "ndcg": _ndcg}
