"""Texts that are unlike each other, by ROUGE-L (Lin 2004): F1 of the longest common subsequence of their words.

The figure is exact. What can't reach the threshold is left out before: texts that are too long or too short for it, and those
that share none of the rarest words, of which they would have to share one.
"""

from collections import defaultdict
from collections.abc import Sequence
from math import ceil

from ddmake.rules.texts import words

NEAR = 1e-9  # what rounding may add to a whole number


class Unlike:
    """Texts as they are kept, and whether a further one is as like one of them as a threshold says."""

    def __init__(self, threshold: float):
        self.threshold = threshold
        self.kept: list[tuple[list[str], frozenset[str]]] = []  # each text's words, and which these are
        self._holding: dict[str, list[int]] = defaultdict(list)  # the texts that hold a word, by their numbers

    def keep(self, text: str) -> None:
        """Keep a text, whatever it is like."""
        found = words(text)
        different = frozenset(found)
        for word in different:
            self._holding[word].append(len(self.kept))
        self.kept.append((found, different))

    def like(self, text: str) -> bool:
        """Tell whether a text is like one that is kept; one without words is."""
        found = words(text)
        size, places, its = len(found), _places(found), frozenset(found)
        again = size - len(its)  # words that stand there a further time
        least = ceil(self.threshold / (2 - self.threshold) * size - NEAR)  # words in common with any text that is like it
        for number in self._sharing(found, least):
            other, different = self.kept[number]
            needed = self.threshold * (size + len(other)) / 2 - NEAR
            if needed <= len(other) and needed <= len(its & different) + again and common(places, size, other) >= needed:
                return True
        return not found

    def _sharing(self, found: Sequence[str], least: int) -> set[int]:
        """Return the texts that may share so many words: they hold one of the rarest, which the others are too few without."""
        rarest = sorted(found, key=lambda word: (len(self._holding.get(word, ())), word))[:len(found) - least + 1]
        return {number for word in dict.fromkeys(rarest) for number in self._holding.get(word, ())}


def rouge_l(one: str, other: str) -> float:
    """Return the ROUGE-L F1 of two texts, from 0 to 1."""
    a, b = words(one), words(other)
    return 2 * common(_places(a), len(a), b) / (len(a) + len(b)) if a or b else 1.0


def common(places: dict[str, int], size: int, other: Sequence[str]) -> int:
    """Return the length of the longest common subsequence, with a bit for each word of one text.

    After Hyyrö (2004), Bit-parallel LCS-length computation revisited.
    """
    whole = left = (1 << size) - 1
    for word in other:
        met = left & places.get(word, 0)
        left = (left + met | left - met) & whole
    return size - left.bit_count()


def _places(found: Sequence[str]) -> dict[str, int]:
    """Return for each word the places where it stands in a text, a bit for each."""
    places: dict[str, int] = {}
    for place, word in enumerate(found):
        places[word] = places.get(word, 0) | 1 << place
    return places
