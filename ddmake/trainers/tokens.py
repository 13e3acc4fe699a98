"""Rows as tokens, found again by whoever trains on the same rows with the same tokenizer.

They lie under a key of all that they are made of: the rows by content, what the encoder says that it is made of, and the code
here. The trainings of a project share them; outside of a job they lie with the checkpoints.
"""

import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

import datasets

from ddmake.artifacts import columns
from ddmake.errors import DdmakeError
from ddmake.fingerprint import hashes

Encode = Callable[[Mapping[str, Any]], dict[str, Any]]
MadeOf = Mapping[str, Any]
IGNORED = -100  # the label of a token that the loss leaves out
MOST = 4_000_000_000  # bytes of tokens that a project keeps
CODE = (__name__, "ddmake.trainers.common", "ddmake.backends.hf", "ddmake.backends.models")  # what all encoders call
YOUNG = 86400  # seconds in which what is half written may belong to a job
ROWS, COUNTS = "rows.arrow", "counts.json"


def tokenize(rows: datasets.Dataset, encode: Encode, file: Path, names: Sequence[str] = ("input_ids", "labels"),
             learned: Sequence[str] = ("labels",), made_of: MadeOf | None = None) -> tuple[datasets.Dataset, Counter]:
    """Return the rows as tokens, with counts of rows cut and dropped.

    `names` are the columns that an example has, `learned` those among them of which something must be left to learn: a row
    where nothing is, is dropped. `made_of` tells what the encoder is made of, its modules as `code`: then the tokens are kept
    for the trainings of the project. Else they go to a file of the checkpoints' folder. The rows' own folder is left alone:
    `map` by itself would write its cache there.
    """
    if made_of is None:
        place = file.with_stem(f"{file.stem}-{os.environ.get('RANK', '0')}")  # each process writes its own
        place.parent.mkdir(parents=True, exist_ok=True)
        tokens, counts = encoded(rows, encode, place, names, learned)
    else:
        tokens, counts = kept(rows, encode, shared(file.parent.parent, "tokens"), names, learned, made_of)
    if not len(tokens):
        raise DdmakeError(f"no row to train on: {len(rows)} given, {counts['dropped']} of them longer than max_length.")
    return tokens, counts


def encoded(rows: datasets.Dataset, encode: Encode, file: Path, names: Sequence[str],
            learned: Sequence[str]) -> tuple[datasets.Dataset, Counter]:
    """Return the rows as tokens in a file."""
    counts = Counter(cut=0, dropped=0)

    def encode_batch(batch: dict[str, list]) -> dict[str, list]:
        examples = [encode(dict(zip(batch, values, strict=True))) for values in zip(*batch.values(), strict=True)]
        counts["cut"] += sum(example.pop("cut") for example in examples)
        whole = [example for example in examples
                 if all(any(token != IGNORED for token in example[name]) for name in learned)]
        counts["dropped"] += len(examples) - len(whole)
        return {name: [example[name] for example in whole] for name in names}

    tokens = rows.map(encode_batch, batched=True, batch_size=256, remove_columns=rows.column_names,
                      cache_file_name=str(file), load_from_cache_file=False, new_fingerprint=uuid4().hex)
    return tokens, counts


def kept(rows: datasets.Dataset, encode: Encode, folder: Path, names: Sequence[str], learned: Sequence[str],
         made_of: MadeOf) -> tuple[datasets.Dataset, Counter]:
    """Return the rows as tokens, those that are kept where there are any; what is made is kept."""
    place = folder / key(rows, encode, names, learned, made_of)
    try:
        return found(place)
    except FileNotFoundError:
        pass  # nobody made them, or they have just gone to make room
    scratch = folder / f"{uuid4().hex}.new"
    scratch.mkdir(parents=True)
    try:
        tokens, counts = encoded(rows, encode, scratch / ROWS, names, learned)
        if not len(tokens):
            return tokens, counts
        (scratch / COUNTS).write_text(json.dumps(counts), encoding="utf-8")
        scratch.rename(place)
    except OSError:
        if not place.is_dir():  # else somebody else was quicker
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    with suppress(FileNotFoundError):  # another process is making room at this moment, too
        make_room(folder, place)
    return found(place)


def found(place: Path) -> tuple[datasets.Dataset, Counter]:
    """Return tokens that are kept. Raises FileNotFoundError where there are none."""
    counts = Counter(json.loads((place / COUNTS).read_text(encoding="utf-8")))
    tokens = datasets.Dataset.from_file(str(place / ROWS))
    os.utime(place)  # what was used last goes last
    return tokens, counts


def key(rows: datasets.Dataset, encode: Encode, names: Sequence[str], learned: Sequence[str], made_of: MadeOf) -> str:
    """Return the hash of all that tokens are made of; of code the modules that take part, whole."""
    batches = (batch for table in rows.with_format("arrow").iter(1000) for batch in table.to_batches())
    content = columns.digest(rows.features.arrow_schema, batches, {})
    code = {name: hashes.of_file(str(sys.modules[name].__file__)) for name in (*CODE, encode.__module__, *made_of["code"])}
    return hashes.of_value({"rows": content, "names": [*names], "learned": [*learned], "of": dict(made_of), "code": code,
                            "libraries": [version("transformers"), version("tokenizers")]})[:32]


def content_of(tokenizer: Any) -> dict[str, Any]:
    """Return what a tokenizer does, in plain values: its pieces, special tokens and chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    pieces = sorted(tokenizer.get_vocab().items()) if backend is None else backend.to_str()
    told = {name: str(value) for name, value in sorted(tokenizer.init_kwargs.items()) if not name.endswith(("_file", "_or_path"))}
    return {"class": type(tokenizer).__name__, "pieces": hashes.of_value(pieces), "special": str(tokenizer.special_tokens_map),
            "template": str(tokenizer.chat_template), "told": told}


def make_room(folder: Path, newest: Path) -> None:
    """Let go of what killed jobs left, and of the tokens that were longest not used, but for the newest, until the rest fits."""
    for left in folder.glob("*.new"):
        if time.time() - _used(left) > YOUNG:
            shutil.rmtree(left, ignore_errors=True)
    whole = (file.parent for file in folder.glob(f"*/{COUNTS}") if file.parent.suffix != ".new")
    places = sorted((place for place in whole if place != newest), key=_used)
    sizes = {place: sum(file.stat().st_size for file in place.iterdir()) for place in (*places, newest)}
    left = sum(sizes.values())
    for place in places:
        if left <= MOST:
            return
        shutil.rmtree(place, ignore_errors=True)
        left -= sizes[place]


def _used(place: Path) -> float:
    return place.stat().st_mtime


def shared(checkpoints: Path, name: str) -> Path:
    """Return the folder of a name that the trainings of a project share; outside of a job, one in the checkpoints' folder."""
    scratch = checkpoints.resolve().parent.parent
    return (scratch.parent if scratch.name == "scratch" else checkpoints) / name
