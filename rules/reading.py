"""Files, read piece by piece: lines, paragraphs, the items of a JSON list. What is wrong with one is told by file and line."""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from ddmake.errors import DdmakeError, did_you_mean

CHUNK = 1 << 20  # characters of a JSON file that are read at once
CUT = 16  # characters at the end of a piece that may be the beginning of a longer word: -Infinity, an escaped pair
BOM = "\ufeff"


def files(given: Any, recipe: str) -> list[Path]:
    """Return the files that a recipe is given, one or a list. Raises DdmakeError for what is no file."""
    found = given if isinstance(given, list) else [given]
    if not found:
        raise DdmakeError(f"{recipe} reads files, and was given an empty list.")
    for file in found:
        if not isinstance(file, Path):
            raise DdmakeError(f"{recipe} reads files, and was given {file!r}.")
        if file.is_dir():
            raise DdmakeError(f"{recipe} reads files, and {file} is a folder. Name the files in it; a dataset needs no reading.")
    return found


def lines(file: Path) -> Iterator[tuple[int, str]]:
    """Yield a file's lines with their numbers, without what ends them. Raises DdmakeError for what isn't UTF-8."""
    with file.open("rb") as opened:
        for number, line in enumerate(opened, 1):
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise not_utf8(f"{file}:{number}", error) from None
            yield number, text.removeprefix(BOM if number == 1 else "").removesuffix("\n").removesuffix("\r")


def paragraphs(file: Path) -> Iterator[str]:
    """Yield a file's paragraphs: lines up to an empty one."""
    for blank, group in groupby((line for _, line in lines(file)), key=lambda line: not line.strip()):
        if not blank:
            yield "\n".join(group)


def not_utf8(place: str, error: UnicodeDecodeError) -> DdmakeError:
    """Return what is told of bytes that are no UTF-8."""
    return DdmakeError(f"{place}: byte 0x{error.object[error.start]:02x} isn't UTF-8. Convert the file: "
                       "iconv -f latin1 -t utf-8 (or from whatever it is in).")


def row(line: str, place: str) -> dict[str, Any]:
    """Return the object that a line of JSON holds. Raises DdmakeError, by its place, for anything else."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DdmakeError(f"{place}: {error}") from None
    if not isinstance(found, dict):
        raise DdmakeError(f"{place}: each line holds one object, {{\"column\": value, …}}, not a {type(found).__name__}")
    return whole(found, place) if "\\u" in line else found


def whole(found: Any, place: str) -> Any:
    """Return a value as it is. Raises DdmakeError, by its place, for half of a character, which no column can hold."""
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise DdmakeError(f"{place}: {half} is half of a character, whose other half isn't beside it. Mend the text, or "
                          f"put \\ufffd in its place.") from None
    return found


def alike(parts: Iterable[tuple[Path, Iterable[dict[str, Any]]]]) -> Iterator[dict[str, Any]]:
    """Yield the rows of one file after another. Raises DdmakeError where a file hasn't the columns of the first one."""
    first: tuple[Path, Sequence[str]] | None = None
    for file, found in parts:
        columns: dict[str, None] = {}
        for one in found:
            columns.update(dict.fromkeys(one))
            yield one
        if first is None:
            first = file, list(columns)
        elif columns:
            same_columns(first, (file, list(columns)))


def same_columns(first: tuple[Path, Sequence[str]], other: tuple[Path, Sequence[str]]) -> None:
    """Raise DdmakeError where two files haven't the same columns, in whatever order."""
    for (file, columns), (beside, known) in ((other, first), (first, other)):
        missing = next((name for name in known if name not in columns), None)
        if missing is not None:
            raise DdmakeError(f"{file} has no column {missing!r}, and {beside} has. It has: {', '.join(columns)}."
                              f"{did_you_mean(missing, columns)}")


def items(file: Path, field: str | None) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON file's list, or of the list at a field in it, as `data.items` names it.

    Raises DdmakeError, by line, for what isn't JSON, and where there is no such list.
    """
    with file.open(encoding="utf-8-sig") as opened:
        text = _Json(file, opened)
        try:
            for at, name in enumerate(names := field.split(".") if field else []):
                text.enter(name, ".".join(names[:at]))
            yield from _objects(text, field)
        except UnicodeDecodeError:
            for _ in lines(file):  # which tells the line
                pass


def _objects(text: "_Json", field: str | None) -> Iterator[dict[str, Any]]:
    where = f"at {field!r}" if field else "in it"
    if text.next() == "{" and not field:
        raise text.wrong("this is an object, and a list of objects is needed. Name the list in it by field=; "
                         "for a file with an object a line there is jsonl()")
    text.take("[", f"there is no list {where}")
    more = text.next() != "]"
    while more:
        text.next()
        place = text.place()
        found = text.value()
        if not isinstance(found, dict):
            raise DdmakeError(f"{place}: each item of the list is an object, {{\"column\": value, …}}, "
                              f"not a {type(found).__name__}")
        yield found
        more = text.next() != "]"
        if more:
            text.take(",", "a comma or the list's end is expected")
    text.at += 1
    if not field and text.next():
        raise text.wrong("the list ends before this, and a file holds one list")


class _Json:
    """A JSON file, of which no more is held than the value that is being read, and a piece of what follows."""

    def __init__(self, file: Path, opened: Any):
        self.file, self.opened = file, opened
        self.text, self.at, self.line, self.ended = "", 0, 1, False
        self.decode = json.JSONDecoder().raw_decode

    def next(self) -> str:
        """Return the next character that isn't white space, and stay before it; nothing at the end."""
        while True:
            while self.at < len(self.text):
                if not self.text[self.at].isspace():
                    return self.text[self.at]
                self.at += 1
            if self.ended:
                return ""
            self._more()

    def take(self, char: str, otherwise: str) -> None:
        """Go past a character. Raises DdmakeError where there is another one."""
        if self.next() != char:
            raise self.wrong(otherwise)
        self.at += 1

    def enter(self, name: str, above: str) -> None:
        """Go to the value of an object's field, which lies in the field `above`."""
        self.take("{", f"there is no object {f'at {above!r}' if above else 'in it'} to find {name!r} in")
        seen: list[str] = []
        while self.next() == '"':
            seen.append(self.value())
            self.take(":", "a colon is expected")
            if seen[-1] == name:
                return
            self.next()
            self.value()
            if self.next() == ",":
                self.at += 1
        raise DdmakeError(f"{self.file}: there is no field {name!r}{f' in {above!r}' if above else ''}. "
                          f"There are: {', '.join(seen) or 'none'}.{did_you_mean(name, seen)}")

    def value(self) -> Any:
        """Return the value that begins here, and go past it."""
        while True:
            try:
                found, end = self.decode(self.text, self.at)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated") or error.pos > len(self.text) - CUT
                if self.ended or not cut:
                    raise self.wrong(error.msg, error.pos) from None
            except RecursionError:
                raise self.wrong("it is nested too deep") from None
            else:
                if end < len(self.text) or self.ended:
                    if "\\u" in self.text[self.at:end]:
                        whole(found, self.place())
                    self.at = end
                    return found
            self._more()

    def place(self, at: int | None = None) -> str:
        """Return file and line of what comes next, or of a place in the text."""
        return f"{self.file}:{self.line + self.text.count(chr(10), 0, self.at if at is None else at)}"

    def wrong(self, what: str, at: int | None = None) -> DdmakeError:
        """Return what is told of a mistake here, or at a place in the text."""
        return DdmakeError(f"{self.place(at)}: {what}{'' if self.next() else '; the file ends here'}.")

    def _more(self) -> None:
        """Read on, twice as much where a value is long, and let go of what was read."""
        self.line += self.text.count("\n", 0, self.at)
        rest = self.text[self.at:]
        more = self.opened.read(max(CHUNK, len(rest)))
        self.text, self.at, self.ended = rest + more, 0, not more
