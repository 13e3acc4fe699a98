"""Code by meaning: a function, and all of the user's own code and values that it reaches.

What lies in an installed package counts as that package, whose version is recorded; a rule may declare it.
Nothing is skipped in silence: a value that can't be hashed soundly raises DdfileError and is named.
"""

from collections.abc import Iterator
from types import FunctionType
from typing import Any

from ddmake.errors import DdfileError
from ddmake.fingerprint import values
from ddmake.fingerprint.pieces import Piece, Pieces, Ref
from ddmake.fingerprint.values import Special

Code = dict[str, dict[str, Any]]  # by label: {"text": hash, "reads": {name: value, or {"code": label}}}

ROOT = "recipe"  # a function that goes by this name is a rule's own, whose name means nothing


class Codes:
    """The code of one loaded workflow: each function is walked once, whatever rules reach it.

    `special` returns the canonical form of what a higher floor knows, NotImplemented for the rest. Places under the
    folder `root` count by their way from there.
    """

    def __init__(self, special: Special, root: str = ""):
        self._pieces, self._root = Pieces(special, root), root
        self._known: dict[tuple[int, str], tuple[Any, Code]] = {}  # by a function's id and the name it was asked for by
        self._keep: list[Any] = []  # so that no id is given twice

    def of(self, value: Any, name: str) -> tuple[Any, Code]:
        """Return a value's canonical form, and the code that it holds with all that this reaches, by label.

        For a function that was asked for before the very same objects are returned. Raises DdfileError for a value
        that can't be hashed.
        """
        if type(value) in values.SCALARS:
            return values.scalar(value, self._root), {}
        try:
            if type(value) is not FunctionType:
                return self._walked(value, name)
            function = self._pieces.stand_in(value)
            key = id(function), name
            if key not in self._known:
                self._known[key] = self._walked(value, name)
                self._keep.append(function)
            return self._known[key]
        except RecursionError:
            raise DdfileError(f"{name} can't be hashed: it is nested too deeply. Cut it into parts.") from None

    def texts(self, found: Code) -> dict[str, str]:
        """Return the text of pieces of code as it stands in their files, by the hash that stands for it."""
        shas = {piece["text"] for piece in found.values() if isinstance(piece, dict)}
        return {sha: self._pieces.written(sha) for sha in sorted(filter(None, shas))}

    def _walked(self, value: Any, name: str) -> tuple[Any, Code]:
        told, refs = self._pieces.value(value, name)
        if not refs:
            return told, {}
        labels, pieces = self._reached(refs, name)
        sees = frozenset().union(*(piece.sees for piece in pieces.values()))
        code = {label: _filled(piece.told(sees, named=label != ROOT), labels) for label, piece in pieces.items()}
        return _filled(told, labels), dict(sorted(code.items()))

    def _reached(self, refs: list[Ref], name: str) -> tuple[dict[int, str], dict[str, Piece]]:
        """Return the labels of all code that is reached, by id, and the pieces by label, in the order of reading."""
        labels: dict[int, str] = {}
        pieces: dict[str, Piece] = {}
        waiting = list(refs)
        for ref in waiting:  # which grows meanwhile
            if id(ref.thing) not in labels:
                piece = self._pieces.piece(ref)
                label = _free(ROOT if name == ROOT and not pieces else piece.label or ref.name, pieces)
                labels[id(ref.thing)], pieces[label] = label, piece
                waiting.extend(piece.refs)
        return labels, pieces


def _free(label: str, taken: dict[str, Piece]) -> str:
    return next(one for one in _numbered(label) if one not in taken)


def _numbered(label: str) -> Iterator[str]:
    yield label
    number = 2
    while True:
        yield f"{label}#{number}"
        number += 1


def _filled(value: Any, labels: dict[int, str]) -> Any:
    """Return a canonical form with labels for the code in it."""
    if type(value) is Ref:
        return {"code": labels[id(value.thing)]}
    if type(value) is dict:
        return {key: _filled(item, labels) for key, item in value.items()}
    return [_filled(item, labels) for item in value] if type(value) is list else value
