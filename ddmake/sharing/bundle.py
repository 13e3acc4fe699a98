"""A bundle: one tar archive of plain files, with a manifest of their sizes and hashes as its first member.

    manifest.json            what is in it, by name, size and sha256; what lies where; what was left out
    project/<path>           Ddfiles, modules, templates, sources
    objects/<sha256>         the files of results
    records/*.jsonl          traces, texts of code, calls, vectors: a JSON object a line
    manifest.sha256          the manifest's own hash, which damage gives away

The manifest settles every byte of the archive besides the contents, so that equal contents give equal bundles; a reader takes
nothing else: it compares the heads of members with those that it would have written itself. So there is no room in a
bundle for links, devices, sparse files, names that lead elsewhere, or members that the manifest doesn't know.
"""

import hashlib
import json
import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from ddmake import __version__
from ddmake.errors import DdmakeError
from ddmake.store import paths

VERSION = 1  # raised when an older ddmake could no longer read what is written
MANIFEST, SEAL, PROJECT, OBJECTS, RECORDS = "manifest.json", "manifest.sha256", "project/", "objects/", "records/"
NAME = re.compile(r"project/.+|objects/[0-9a-f]{64}|records/(traces|texts|calls|vectors)\.jsonl", re.DOTALL)
SHA = re.compile(r"[0-9a-f]{64}")
BEGINNING = f"{MANIFEST}\0".encode()  # of a bundle, and hardly of another tar archive
BLOCK, CHUNK = tarfile.BLOCKSIZE, 1 << 20
MOST_MANIFEST = 1 << 30  # bytes of a manifest that is read into memory
LONGEST_LINE = 1 << 30  # bytes of a record
KINDS = {tarfile.SYMTYPE: "a symbolic link", tarfile.LNKTYPE: "a link", tarfile.CHRTYPE: "a device", tarfile.BLKTYPE: "a device",
         tarfile.FIFOTYPE: "a pipe", tarfile.DIRTYPE: "a folder", tarfile.GNUTYPE_SPARSE: "a sparse file"}


@dataclass(frozen=True)
class Part:
    """A member; `place` is where its bytes lie when it is written."""

    name: str
    size: int
    sha: str
    executable: bool = False
    place: Path = Path()


@dataclass(frozen=True)
class Bundle:
    """A bundle that is open to be read; its form was checked, its contents weren't."""

    file: Path
    stream: IO[bytes]
    sha: str  # of the manifest, and so of all of it
    told: dict[str, Any]
    parts: dict[str, Part]
    starts: dict[str, int] = field(default_factory=dict)  # where the bytes of a member begin

    def chunks(self, name: str) -> Iterator[bytes]:
        """Yield the bytes of a member."""
        self.stream.seek(self.starts[name])
        left = self.parts[name].size
        while left and (data := self.stream.read(min(left, CHUNK))):
            left -= len(data)
            yield data

    def lines(self, name: str) -> Iterator[Any]:
        """Yield the JSON objects of a member, none where there is no such member. Raises DdmakeError for a line that is none."""
        at, end = (self.starts[name], self.starts[name] + self.parts[name].size) if name in self.parts else (0, 0)
        while at < end:
            self.stream.seek(at)  # others may have read meanwhile
            line = self.stream.readline(min(end - at, LONGEST_LINE))
            at += len(line)
            try:
                yield json.loads(line)
            except (ValueError, RecursionError):
                raise DdmakeError(f"{self.file}: {name} holds a line that isn't JSON. Nothing of it was unpacked.") from None


def write(file: Path, told: Mapping[str, Any], parts: Sequence[Part]) -> str:
    """Write a bundle, whole or not at all, and return its hash. Raises DdmakeError for a file that isn't what it was."""
    file, manifest = file.resolve(), _manifest(told, parts)  # through a link, which stays one
    sha = hashlib.sha256(manifest).hexdigest()
    scratch = file.with_name(f".{file.name}.{uuid4().hex}")
    try:
        buffers = cycle([memoryview(bytearray(CHUNK)), memoryview(bytearray(CHUNK))])
        with scratch.open("wb") as stream, ThreadPoolExecutor(1) as hashing:
            stream.write(_head(Part(MANIFEST, len(manifest), "")) + manifest + _filled(len(manifest)))
            for part in parts:
                stream.write(_head(part))
                _copy(part, stream, hashing, buffers)
                stream.write(_filled(part.size))
            stream.write(_end(sha))
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(scratch, file)
    finally:
        scratch.unlink(missing_ok=True)
    return sha


@contextmanager
def opened(file: Path) -> Iterator[Bundle]:
    """Give a bundle to be read. Raises DdmakeError for what isn't one, is newer, cut short, or holds what it doesn't tell of."""
    if not file.is_file():  # a pipe would be waited for
        raise DdmakeError(f"{file} is no plain file, and a bundle is one. Save it first.")
    with file.open("rb") as stream:
        manifest, sha = _read_manifest(file, stream)
        found = Bundle(file, stream, sha, manifest, _parts(file, manifest))
        _check_length(found, stream.tell())
        for part in found.parts.values():
            _check_head(found, part)
            found.starts[part.name] = stream.tell()
            stream.seek(part.size, os.SEEK_CUR)
            _check_filled(file, stream, part)
        if stream.read() != _end(sha):
            raise _unlike(file, f"its {MANIFEST} has the sha256 {sha}, and its {SEAL} says something else")
        yield found


def check_contents(bundle: Bundle, within: str = "") -> None:
    """Raise DdmakeError, with the digest, for the first member whose contents aren't those that the manifest tells of.

    Only those whose name begins with `within` are read.
    """
    for part in (part for part in bundle.parts.values() if part.name.startswith(within)):
        sha = hashlib.sha256()
        for data in bundle.chunks(part.name):
            sha.update(data)
        if sha.hexdigest() != part.sha:
            raise _unlike(bundle.file, f"{part.name} has the sha256 {sha.hexdigest()}, and not {part.sha}")


def _manifest(told: Mapping[str, Any], parts: Sequence[Part]) -> bytes:
    members = [{"name": part.name, "size": part.size, "sha256": part.sha, **({"executable": True} if part.executable else {})}
               for part in parts]
    whole = {"bundle": VERSION, "ddmake": __version__, **told, "members": members}
    return json.dumps(whole, indent=1, ensure_ascii=False).encode() + b"\n"


def _head(part: Part) -> bytes:
    """Return what stands before a member's bytes."""
    info = tarfile.TarInfo(part.name)
    info.size, info.mode = part.size, 0o755 if part.executable else 0o644
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict")


def _filled(size: int) -> bytes:
    """Return what follows a member's bytes up to the next block."""
    return bytes(-size % BLOCK)


def _end(sha: str) -> bytes:
    """Return what follows the last part: the hash of the manifest, and the end of the archive."""
    seal = f"{sha}\n".encode()
    return _head(Part(SEAL, len(seal), "")) + seal + _filled(len(seal)) + bytes(2 * BLOCK)


def _copy(part: Part, stream: IO[bytes], hashing: ThreadPoolExecutor, buffers: Iterator[memoryview]) -> None:
    """Copy a file into the archive; a large one is hashed beside the writing, which goes as fast as the slower of the two."""
    sha, size, waiting = hashlib.sha256(), 0, None
    with part.place.open("rb", buffering=0) as source:
        while size <= part.size and (count := source.readinto(buffer := next(buffers))):
            if waiting is not None:
                waiting.result()
            if count < CHUNK:
                sha.update(buffer[:count])
            waiting = hashing.submit(sha.update, buffer) if count == CHUNK else None
            stream.write(buffer[:count])
            size += count
    if waiting is not None:
        waiting.result()
    if size != part.size or sha.hexdigest() != part.sha:
        what = "is damaged: ddmake verify tells more" if part.name.startswith(OBJECTS) else "was changed meanwhile: pack again"
        raise DdmakeError(f"{part.place} {what}. Nothing was packed.")


def _read_manifest(file: Path, stream: IO[bytes]) -> tuple[dict[str, Any], str]:
    head = stream.read(BLOCK)
    with suppress(tarfile.HeaderError):
        info = tarfile.TarInfo.frombuf(head, "utf-8", "strict")
        if info.name == MANIFEST and 0 < info.size <= MOST_MANIFEST and head == _head(Part(MANIFEST, info.size, "")):
            text = stream.read(info.size)
            if len(text) < info.size:
                raise _unlike(file, f"it is cut short: not even its {MANIFEST} is whole")
            _check_filled(file, stream, Part(MANIFEST, info.size, ""))
            return _checked(file, text), hashlib.sha256(text).hexdigest()
    raise DdmakeError(f"{file} isn't a bundle: those that `ddmake pack` writes begin with their {MANIFEST}.")


def _checked(file: Path, text: bytes) -> dict[str, Any]:
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        raise _unlike(file, f"its {MANIFEST} isn't JSON") from None
    version = told.get("bundle") if isinstance(told, dict) else None
    if not isinstance(version, int):
        raise _unlike(file, f"its {MANIFEST} tells no version")
    if version > VERSION:
        raise DdmakeError(f"{file} was written by a newer ddmake ({str(told.get('ddmake'))[:20]!r}). Upgrade with: "
                          "pip install -U ddmake")
    return told


def _parts(file: Path, told: Mapping[str, Any]) -> dict[str, Part]:
    """Return the members that a manifest tells of. Raises DdmakeError for a name that could lie elsewhere than in the project."""
    members = told.get("members")
    found: dict[str, Part] = {}
    for member in members if isinstance(members, list) else [None]:
        part = _part(member)
        if part is None:
            raise _unlike(file, f"its {MANIFEST} tells of a member that can't be one")
        if why := _wrong(part):
            raise _unlike(file, f"{part.name!r} {why}")
        if part.name in found:
            raise _unlike(file, f"{part.name} is in it twice")
        found[part.name] = part
    if (both := paths.clash(found)) is not None:
        raise _unlike(file, f"{both[0]} and {both[1]} would overwrite each other")
    return found


def _part(member: Any) -> Part | None:
    if not isinstance(member, dict):
        return None
    name, size, sha = member.get("name"), member.get("size"), member.get("sha256")
    if not isinstance(name, str) or type(size) is not int or size < 0 or not isinstance(sha, str) or not SHA.fullmatch(sha):
        return None
    return Part(name, size, sha, member.get("executable") is True)


def _wrong(part: Part) -> str | None:
    if not NAME.fullmatch(part.name):
        return paths.wrong(part.name) or "is no part of a bundle"
    if part.name.startswith(OBJECTS) and part.name != OBJECTS + part.sha:
        return f"has the sha256 {part.sha} by its {MANIFEST}"
    return paths.wrong(part.name.partition("/")[2])


def _check_length(bundle: Bundle, start: int) -> None:
    """Raise DdmakeError for an archive that is shorter or longer than its manifest says, before anything of it is read."""
    sizes = (len(_head(part)) + part.size + len(_filled(part.size)) for part in bundle.parts.values())
    size = start + sum(sizes) + len(_end(bundle.sha))
    lies = bundle.file.stat().st_size
    if lies < size:
        raise _unlike(bundle.file, f"it is cut short: {lies:,} bytes of {size:,} are there")
    if lies > size:
        raise _unlike(bundle.file, f"it is longer than its manifest says: {lies:,} bytes, not {size:,}")


def _check_head(bundle: Bundle, part: Part) -> None:
    wanted = _head(part)
    head = bundle.stream.read(len(wanted))
    if head == wanted:
        return
    with suppress(tarfile.HeaderError):
        info = tarfile.TarInfo.frombuf(head[-BLOCK:], "utf-8", "replace")
        what = KINDS.get(info.type, f"{info.name[:200]!r}, {info.size:,} bytes")
        raise _unlike(bundle.file, f"where {part.name} should be, there is {what}")
    raise _unlike(bundle.file, f"where {part.name} should begin, something else stands")


def _check_filled(file: Path, stream: IO[bytes], part: Part) -> None:
    if stream.read(-part.size % BLOCK).strip(b"\0"):
        raise _unlike(file, f"something stands between {part.name} and what follows")


def _unlike(file: Path, what: str) -> DdmakeError:
    return DdmakeError(f"{file}: {what}. It was damaged or tampered with; nothing of it was unpacked. Get it anew.")
