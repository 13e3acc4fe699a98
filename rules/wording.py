"""What an llm is told of a row: a template's turns or a column of messages, with a system prompt before and images behind."""

import base64
import mimetypes
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

from ddmake.errors import DdfileError, DdmakeError, did_you_mean

Turn = Mapping[str, Any]  # a chat message
FEW = 100  # rows that are made into Python's at once: there may be images among them

BEGINNINGS = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif", b"BM": "image/bmp"}


@dataclass(frozen=True)
class Wording:
    """How rows are worded: by a template, or as the messages that a column holds. `images` names columns."""

    prompt: Any = None
    messages: str | None = None
    system: Any = None
    images: str | Sequence[str] | None = None
    variables: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> "Wording":
        """Return what a recipe's arguments of these names say."""
        return cls(arguments["prompt"], arguments.get("messages"), arguments["system"], arguments.get("images"),
                   arguments["variables"])

    @property
    def pictures(self) -> Sequence[str]:
        """Return the names of the columns with images."""
        return [self.images] if isinstance(self.images, str) else self.images or ()

    def check(self, columns: Sequence[str] | None) -> None:
        """Raise DdfileError where what is read isn't among the columns; None: they aren't known."""
        if (self.prompt is None) == (self.messages is None):
            raise DdfileError("it takes prompt=, a template over the row, or messages=, a column of chat messages: "
                              f"{'one of them is needed' if self.prompt is None else 'not both'}.")
        known = None if columns is None else [*columns, *(self.variables or ())]
        for template in filter(None, (self.prompt, self.system)):
            template.need(known)
        for argument, names in (("messages", [self.messages] if self.messages else []), ("images", self.pictures)):
            for name in names:
                if columns is not None and name not in columns:
                    has = f"There are: {', '.join(columns)}." if columns else "There are none."
                    raise DdfileError(f"{argument}= names the column {name!r}. {has}{did_you_mean(name, columns)}")

    def reads(self, columns: Sequence[str]) -> list[str]:
        """Return those of the columns that the wording may read."""
        named = {*filter(None, (self.messages,)), *self.pictures}
        templates = [template for template in (self.prompt, self.system) if template is not None]
        return [name for name in columns if name in named or any(name in template.names for template in templates)]

    def turns(self, row: Mapping[str, Any]) -> list[Turn]:
        """Return the chat messages for one row. Raises DdmakeError for a value that can't be worded."""
        seen = {**self.variables, **row} if self.variables else row
        turns = list(self.prompt.messages(**seen)) if self.messages is None else conversation(row[self.messages], self.messages)
        if self.system is not None and not (self.messages and turns[0]["role"] == "system"):
            turns.insert(0, {"role": "system", "content": self.system.render(**seen)})
        shown = [{"type": "image_url", "image_url": {"url": url}}
                 for name in self.pictures for url in urls(row[name], name)]
        return with_images(turns, shown) if shown else turns


def prompts(rows: Any, wording: Wording, times: int = 1) -> Iterator[list[Turn]]:
    """Yield the chat messages for each row of a Dataset, so many times in a row; only the columns that they need are read."""
    from ddmake.artifacts.rows import read

    wording.check(rows.column_names)
    columns = wording.reads(rows.column_names)
    if not columns:
        yield from repeat(wording.turns({}), len(rows) * times)
        return
    for batch in read(rows, columns, FEW):
        for row in batch.to_pylist():
            turns = wording.turns(row)
            for _ in range(times):
                yield turns


def conversation(value: Any, column: str) -> list[Turn]:
    """Return a row's chat messages, without the fields that are null; raises DdmakeError for what is none."""
    if not isinstance(value, list) or not value or not all(isinstance(turn, Mapping) and turn.get("role") for turn in value):
        raise DdmakeError(f"column {column!r} holds {shortened(value)}, not chat messages: a list of {{'role', 'content'}}.")
    return [{name: told for name, told in turn.items() if told is not None or name == "content"} for turn in value]


def with_images(turns: Sequence[Turn], images: Sequence[Turn]) -> list[Turn]:
    """Return chat messages with images behind the text of the last user's turn."""
    at = max((number for number, turn in enumerate(turns) if turn["role"] == "user"), default=None)
    if at is None:
        raise DdmakeError("there is no user's turn for the images to stand in.")
    content = turns[at]["content"]
    text = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
    return [*turns[:at], {**turns[at], "content": [*text, *images]}, *turns[at + 1:]]


def urls(value: Any, column: str) -> Iterator[str]:
    """Yield what a model is shown of a row's image, or list of images: URLs, those of the web as they are."""
    for image in value if isinstance(value, list) else [value]:
        if isinstance(image, Mapping):  # as datasets' Image feature stores one
            image = image.get("bytes") or image.get("path")
        if isinstance(image, bytes):
            yield data_url(image, column)
        elif isinstance(image, str) and image.startswith(("https://", "http://", "data:")):
            yield image
        elif isinstance(image, str) and Path(image).is_file():
            yield data_url(Path(image).read_bytes(), column, image)
        else:
            raise DdmakeError(f"column {column!r} holds {shortened(image)}, which is no image: it takes bytes, a URL, "
                              "or the path of a file, from the Ddfile's folder on.")


def data_url(data: bytes, column: str, name: str = "") -> str:
    """Return an image's bytes as a URL."""
    kind = next((kind for start, kind in BEGINNINGS.items() if data.startswith(start)), None)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        kind = "image/webp"
    kind = kind or mimetypes.guess_type(name)[0]
    if kind is None or not kind.startswith("image/"):
        raise DdmakeError(f"column {column!r} holds {name or f'{len(data)} bytes'}, which is no image of a known kind.")
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def shortened(value: Any) -> str:
    """Return a value as messages show it."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]} …"
