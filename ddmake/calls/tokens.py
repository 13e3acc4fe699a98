"""How many tokens requests will have, as near as can be told without sending them.

Calls that are known tell best: what their provider counted, against the length of what was asked. Failing these, OpenAI's
tokenizer counts, which comes with litellm; it is some percent off for other families.
"""

import importlib.util
import json
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

KNOWN = 500  # calls that a mean is taken of, the newest
LOOKED_AT = 20_000  # calls among which they are sought, the newest
IMAGE = '"image_url"'  # how a request tells in JSON that it holds a picture
A_MESSAGE = 4  # tokens besides its text, in OpenAI's chat format
WRAPPING = len('{"content": "", "role": "user"}, ')  # what JSON puts around a message's text
CHARACTERS = 4  # a token, where no tokenizer is there
BYTES = 3  # a token, where it had better be too many than too few
ENCODING, ITS_FILE = "cl100k_base", "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"  # the name under which tiktoken keeps it


def per_character(db: sqlite3.Connection, llm: str, rule: str) -> float | None:
    """Return the tokens a character that a rule's llm was billed for; else that llm by others, else its provider's models.

    None where no such call is known.
    """
    for which, values in (("llm = ? AND rule = ?", (llm, rule)), ("llm = ?", (llm,)), ("llm GLOB ?", (f"{_plain(llm)}/*",))):
        found = _of_known(db, "total(tokens_in) / sum(length(request))", f"tokens_in > 0 AND {which} AND request NOT LIKE ?",
                          (*values, f"%{IMAGE}%"))
        if found:
            return found
    return None


def mean(db: sqlite3.Connection, what: str, llm: str, rule: str) -> float | None:
    """Return the mean of `tokens_in` or `tokens_out` over what a rule asked an llm before; None where nothing is known."""
    return _of_known(db, f"avg({what})", f"{what} IS NOT NULL AND llm = ? AND rule = ?", (llm, rule))


def of_texts(db: sqlite3.Connection, llm: str, rule: str, texts: Sequence[str]) -> float:
    """Return the tokens a character of texts that are to be embedded, as the embedder was billed, else as a tokenizer counts.

    A rule's own requests tell before those of others.
    """
    bare = f"sum(length(request) - {WRAPPING} * json_array_length(request))"  # of texts that are short JSON is the most
    for which, values in (("llm = ? AND rule = ?", (llm, rule)), ("llm = ?", (llm,))):
        found = _of_known(db, f"total(tokens_in) / {bare}", f"tokens_in > 0 AND {which}", values)
        if found:
            return found
    encoding, characters = _encoding(), sum(map(len, texts))
    if encoding is None or not characters:
        return 1 / CHARACTERS
    return sum(len(encoding.encode_ordinary(text)) for text in texts) / characters


def counted(requests: Sequence[str]) -> float:
    """Return the tokens a character that requests, written, have by the tokenizer that is at hand."""
    encoding = _encoding()
    characters = sum(map(len, requests))
    if encoding is None or not characters:
        return 1 / CHARACTERS
    return sum(_tokens(encoding, json.loads(request)) for request in requests) / characters


def of_text(text: str) -> int:
    """Return the tokens of a text by OpenAI's tokenizer, or for every three bytes one where that isn't at hand."""
    encoding = _encoding()
    return len(text.encode("utf-8", "replace")) // BYTES + 1 if encoding is None else len(encoding.encode_ordinary(text))


def _plain(llm: str) -> str:
    """Return a provider's name with nothing in it that GLOB would take for a wildcard."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in llm.partition("/")[0])


def _of_known(db: sqlite3.Connection, what: str, which: str, values: Sequence[Any]) -> float | None:
    """Return an aggregate over the newest calls of a kind; only so many are looked at, since there may be millions."""
    near = f"id > (SELECT max(id) FROM calls) - {LOOKED_AT}"
    recent = f"SELECT * FROM calls WHERE {near} AND {which} ORDER BY id DESC LIMIT {KNOWN}"
    return db.execute(f"SELECT {what} FROM ({recent})", values).fetchone()[0]


def _tokens(encoding: Any, told: Any) -> int:
    """Return the tokens of a request: its texts', and what marks each message."""
    messages = told["messages"] if isinstance(told, dict) else told
    texts = [part.get("text") or "" if isinstance(part, dict) else part for message in messages for part in _parts(message)]
    rest = [json.dumps(told[name]) for name in ("schema", "tools") if isinstance(told, dict) and name in told]
    return A_MESSAGE * len(messages) + sum(len(encoding.encode_ordinary(text)) for text in [*texts, *rest])


def _parts(message: dict[str, Any]) -> Sequence[Any]:
    content = message.get("content") or ""
    return [content] if isinstance(content, str) else content


def _encoding() -> Any:
    """Return OpenAI's tokenizer from the file that comes with litellm, which isn't imported; None where it isn't there."""
    litellm = importlib.util.find_spec("litellm")
    if litellm is None or litellm.origin is None or importlib.util.find_spec("tiktoken") is None:
        return None
    folder = Path(litellm.origin).parent / "litellm_core_utils" / "tokenizers"
    if not (folder / ITS_FILE).is_file():  # tiktoken would fetch it
        return None
    os.environ["TIKTOKEN_CACHE_DIR"] = str(folder)
    import tiktoken

    return tiktoken.get_encoding(ENCODING)
