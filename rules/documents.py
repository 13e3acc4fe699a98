"""Documents as rows: files of text, Markdown and PDF read, and their texts cut into chunks."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddmake import step
from ddmake.ddfile.inputs import Paths, StoredRows
from ddmake.errors import DdfileError, DdmakeError
from ddmake.rules.columns import added, free, need
from ddmake.rules.cutting import Unit, cut, sections
from ddmake.rules.texts import beside

if TYPE_CHECKING:
    import pyarrow as pa

    from ddmake.artifacts.rows import Batches

TEXT, MARKDOWN, PDF = (".txt", ".text"), (".md", ".markdown"), (".pdf",)
KINDS = (*TEXT, *MARKDOWN, *PDF)
READ = {"path": "string", "title": "string", "text": "string", "pages": "int64"}  # columns of `documents`
FEW = 100  # documents held at once

Inputs, Arguments = Mapping[str, Any], Mapping[str, Any]
Manner = tuple[int, int, Unit]  # size, overlap, by


@dataclass(frozen=True)
class File:
    """A file to read, and the name that its row gets."""

    place: Path
    name: str

    @property
    def kind(self) -> str:
        """Return the suffix."""
        return self.place.suffix.lower()


def _cut(inputs: Inputs, arguments: Arguments) -> list[str] | None:
    """Tell the columns of `chunks`."""
    columns, size, overlap = inputs["documents"], arguments["size"], arguments["overlap"]
    if size < 1 or not 0 <= overlap <= size // 2:
        raise DdfileError(f"size is the most characters of a chunk and overlap at most half of it, not {size} and {overlap}.")
    need(columns, arguments["text"], "to cut")
    free(columns, ("chunk", "heading"), "chunks")
    return added(columns, "chunk", "heading")


@step(version="1", columns=lambda inputs, arguments: list(READ))
def documents(folder: Paths) -> "Batches":
    """Read the documents of a folder, or of a list of files: text and Markdown in UTF-8, and PDF.

    One row a file, sorted by its path in the folder: path, title (the first heading, a PDF's own title, else the file's name),
    text, and pages, the number of a PDF's. Hidden files are left out, and files of other kinds, which are counted in the log.
    A PDF without text, as a scan is one, has an empty text.
    """
    from ddmake.artifacts.rows import Batches

    files = _files(folder)
    if any(file.kind in PDF for file in files):
        from ddmake.backends.models import need as need_package

        need_package("pypdf", "documents", "reading PDF")
    return Batches(_read(files))


@step(version="1", columns=_cut, by_row="documents")
def chunks(documents: StoredRows, *, text: str = "text", size: int = 2000, overlap: int = 200, by: Unit = "paragraph",
           markdown: bool | None = None) -> "Batches":
    """Cut texts into chunks of at most `size` characters, of which about the last `overlap` ones begin the next one, too.

    A chunk ends at the end of a paragraph where one ends in its second half, else of a line, of a sentence, of a word, and only
    then anywhere. `by` is the unit to begin with: with "sentence", paragraphs count for no more than sentences do.
    In Markdown a heading begins a chunk, unless nothing stands below it; Markdown are the rows whose `path` ends with .md, or all
    or none by `markdown`.
    Each chunk is a row with its number in `chunk`, the nearest heading above it in `heading` (null where there is none), and the
    other columns of its text. A text that is null or blank has no chunks.
    """
    from ddmake.artifacts.rows import Batches, features_of

    features = features_of(documents)
    features.pop(text, None)
    return Batches(_chunked(documents, text, (size, overlap, by), markdown), features)


def _files(given: Any) -> list[File]:
    """Return the files to read in order. Raises DdmakeError for a named one of no known kind, or where there are none."""
    places = [Path(place) for place in (given if isinstance(given, list) else [given])]
    found = [file for place in places for file in (_inside(place) if place.is_dir() else [File(place, place.as_posix())])]
    known = [file for file in found if file.kind in KINDS]
    for file in found:
        if file.place in places and file.kind not in KINDS:
            raise DdmakeError(f"{file.name}: it is no document of a known kind: {', '.join(KINDS)}. Convert it, or leave it out.")
    if not known:
        raise DdmakeError(f"{', '.join(map(str, places)) or 'the list'}: there are no documents: {', '.join(KINDS)}.")
    others = Counter(file.kind or file.place.name for file in found if file.kind not in KINDS)
    if others:
        told = ", ".join(f"{kind} ({count})" for kind, count in sorted(others.items()))
        print(f"left out {others.total()} files of other kinds: {told}", flush=True)
    return known


def _inside(folder: Path) -> list[File]:
    """Return the files in a folder and those below, by path; without hidden ones."""
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    shown = sorted(name.as_posix() for name in names if not any(part.startswith(".") for part in name.parts))
    return [File(folder / name, name) for name in shown]


def _read(files: list[File]) -> Iterator["pa.RecordBatch"]:
    import pyarrow as pa

    schema = pa.schema([(name, getattr(pa, kind)()) for name, kind in READ.items()])
    rows = map(_row, files)
    while some := list(islice(rows, FEW)):
        yield pa.RecordBatch.from_pylist(some, schema)


def _row(file: File) -> dict[str, Any]:
    """Return a document's row. Raises DdmakeError for one that can't be read."""
    if file.kind in PDF:
        return _pdf(file)
    try:
        text = file.place.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DdmakeError(f"{file.place}: it isn't UTF-8 (byte {error.start} is 0x{error.object[error.start]:02x}). "
                          f"Convert it: iconv -f LATIN1 -t UTF-8, or from the encoding that it has.") from None
    first = next((heading for heading, _ in sections(text) if heading), None) if file.kind in MARKDOWN else None
    return {"path": file.name, "title": first or file.place.stem, "text": text, "pages": None}


def _pdf(file: File) -> dict[str, Any]:
    import pypdf

    try:
        reader = pypdf.PdfReader(file.place)
        pages = [page.extract_text() for page in reader.pages]
        title = reader.metadata.title if reader.metadata else None
    except Exception as error:  # a damaged file fails in as many ways as there are
        raise DdmakeError(f"{file.place}: it can't be read as PDF: {type(error).__name__}: {error}") from None
    text = _whole("\n\n".join(pages)).strip()
    if not text:
        print(f"{file.place}: {len(pages)} pages without text; a scan has to go through OCR first", flush=True)
    return {"path": file.name, "title": _whole(str(title or "")).strip() or file.place.stem, "text": text, "pages": len(pages)}


def _whole(text: str) -> str:
    """Return a text with U+FFFD for each half of a character, as PDFs may hold them."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _chunked(rows: Any, text: str, manner: Manner, markdown: bool | None) -> Iterator["pa.RecordBatch"]:
    """Yield batches of chunks."""
    import pyarrow as pa

    from ddmake.artifacts.rows import read, texts_in

    for batch in read(rows, size=FEW):
        texts = texts_in(batch.column(text), text)
        marked = _markdown(batch) if markdown is None else [markdown] * len(texts)
        found = [(number, *piece) for number, (whole, is_markdown) in enumerate(zip(texts, marked))
                 for piece in _pieces(whole or "", is_markdown, manner)]
        numbers, counts, headings, pieces = zip(*found) if found else ((), (), (), ())
        columns = {text: pa.array(pieces, pa.string()), "chunk": pa.array(counts, pa.int64()),
                   "heading": pa.array(headings, pa.string())}
        yield beside(batch.take(pa.array(numbers, pa.int64())), columns)


def _pieces(text: str, markdown: bool, manner: Manner) -> Iterator[tuple[int, str | None, str]]:
    """Yield a text's chunks: number, heading, text."""
    cuts = ((heading, piece) for heading, section in (sections(text) if markdown else [(None, text)])
            if heading is None or "\n" in section.strip() for piece in cut(section, *manner))
    yield from ((number, heading, piece) for number, (heading, piece) in enumerate(cuts))


def _markdown(batch: "pa.RecordBatch") -> list[bool]:
    """Tell of each row whether its `path` is that of a Markdown file."""
    if "path" not in batch.schema.names:
        return [False] * batch.num_rows
    return [str(path).lower().endswith(MARKDOWN) for path in batch.column("path").to_pylist()]
