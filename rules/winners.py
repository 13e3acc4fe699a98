"""Winners: which of two answers a judge calls the better one, read from what it wrote in English; columns of them."""

import re
from typing import Any

from ddmake.errors import DdmakeError

WRAPS = " \t\r\n*_`\"'“”‘’«»()[]{}<>#:.!-"  # what may stand around a verdict
MARKS = r"[\s*_`\"'“”‘’«»()\[\]:=#]*"
KIND = r"(?:assistant|answer|response|reply|option|model|text|candidate|output|completion)"
HOW = r"(?:(?:the|clearly|slightly|much|overall|far|a bit|somewhat|definitely|marginally|significantly)\s+)*"
MERIT = r"(?:helpful|accurate|complete|correct|detailed|informative|useful|relevant|concise|convincing|thorough)"
BETTER = rf"(?:better|best|superior|stronger|preferred|preferable|winner|more {MERIT})\b"
TIE = r"(?:(?:an? )?(?:tie|draw)|tied|neither|both|equal|equally|A and B are (?:equal|equally|tied)|A and B tie)\b"
ONE = rf"(?:{KIND}{MARKS}(?P<named>[AB])|(?P<letter>(?-i:[AB])))(?![\w+])"  # a small a may be an article
ALONE = r"(?!\s*(?:and|or|nor|[,/&])\s*[AB]\b\s*(?:$|[.?!,;)\]*]|are\b|tie))"  # and no other beside it

# [[A]] as MT-Bench has judges write it, C for a tie; \boxed{A} as models do that were trained on mathematics; <answer>A</answer>
MARKED = re.compile(r"(?:\[\[|\\boxed\{|<(?:answer|winner|verdict)>)\s*(A|B|C|tie)\s*(?:\]\]|\}|</)", re.IGNORECASE)
BARE = re.compile(r"(A|B|C|tie)", re.IGNORECASE)
WINS = rf"(?:['’]s (?:{KIND} )?)?(?:\s*(?:is|was)\s+{HOW}{BETTER}|\s+wins\b)"
ENDS = r"\s*(?:$|[.,;:!)\]\n](?!\s*(?:\d|B\b))|\s[–—-]\s|(?:because|since|as|over)\b)"
BEGINS = re.compile(rf"{ONE}{MARKS}(?:{WINS}|{ENDS})|(?:it(?:['’]s| is)\s+)?(?P<tie>{TIE})", re.IGNORECASE)
FINAL = re.compile(
    rf"\b(?:winner|verdict|final answer|conclusion|choice|decision|judge?ment|preference|"
    rf"(?:better|best|preferred|stronger)(?: (?:one|{KIND}))?)"
    rf"{MARKS}(?:(?:is|goes to|would be)\b)?{MARKS}(?:{ONE}{ALONE}|(?P<tie>{TIE}))", re.IGNORECASE)
COMPARED = re.compile(rf"\b{ONE}{WINS}", re.IGNORECASE)
PREFERRED = re.compile(rf"\b(?:prefer|choose|pick|select)\s+(?:the\s+)?{ONE}{ALONE}", re.IGNORECASE)


def winner(text: str, cut: bool = False) -> str | None:
    """Return "A", "B" or "tie", as a judge says, None where it says neither; a text that was cut has to begin with it."""
    bare = text.strip(WRAPS)
    if BARE.fullmatch(bare):
        return _meant(bare)
    begins = BEGINS.match(text.lstrip(WRAPS)) or FINAL.match(re.sub(r"(?i)^(?:my|the|final|\s)+", "", text.lstrip(WRAPS)))
    if cut:
        return _told(begins) if begins else None
    if marked := MARKED.findall(text):
        return _meant(marked[-1])
    if final := [*FINAL.finditer(text)]:
        return _told(final[-1])
    said = {_told(one) for pattern in (COMPARED, PREFERRED) for one in pattern.finditer(text)}
    said |= {_told(begins)} if begins else set()
    if len(said) > 1:
        said.discard("tie")  # "Both are good, but B is better."
    return said.pop() if len(said) == 1 else None


def winners(column: Any, name: str) -> Any:
    """Return a column of winners as texts. Raises DdmakeError for what is no winner."""
    import pyarrow as pa

    odd = next((one for one in column.unique().to_pylist() if one not in ("a", "b", "tie", None)), None)
    if odd is not None:
        raise DdmakeError(f'column {name!r} holds {odd!r}; a winner is "a", "b", "tie" or null, as judge_pairs adds it.')
    return column.cast(pa.string())


def _told(found: re.Match[str]) -> str:
    groups = found.groupdict()
    return _meant(groups.get("named") or groups.get("letter") or "tie")


def _meant(word: str) -> str:
    return {"A": "A", "B": "B"}.get(word.upper(), "tie")
