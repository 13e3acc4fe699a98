"""Deduplication and decontamination of generated texts with planted near-duplicates: time, memory, and how many are found.

    python benchmarks/duplicates.py [minhash similar decontaminate] [--rows 100000] [--share 0.1] [--words 100] …

Texts are drawn word by word (from 20,000 words, the frequent ones more often), and a share of them are copies of an earlier
one with some of its words changed, whose similarity is known exactly. CPU seconds are those of this process, which asks the
recipe's own function about rows that lie on disk; nothing is written.
"""

import argparse
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ddmake.artifacts import rows, vectors
from ddmake.artifacts.stored import Stored, rows_at
from ddmake.rules import decontaminate, dedupe, dedupe_similar
from ddmake.rules.texts import grams

VOCABULARY = 20_000
CHANGED = (0, 0.01, 0.02, 0.05, 0.2)  # shares of the words of a copy that are changed
THRESHOLD, NGRAM = 0.8, 5


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["minhash"])
    for name, default in (("rows", 100_000), ("words", 100), ("permutations", 128), ("dimensions", 384)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--share", type=float, default=0.1)
    asked = parser.parse_args()
    for name in asked.what:
        {"minhash": minhash, "similar": similar, "decontaminate": contaminated}[name](asked)


def minhash(asked: argparse.Namespace) -> None:
    """Leave out near-duplicates; tell how many of the planted pairs were found, and what else was left out."""
    texts, source = planted(asked)
    with tempfile.TemporaryDirectory() as folder:
        known = on_disk(({"text": text, "number": number} for number, text in enumerate(texts)), Path(folder))
        kept = measured("dedupe", lambda: numbers(dedupe.function(known, threshold=THRESHOLD, ngram=NGRAM,
                                                                  permutations=asked.permutations)))
    alike = {copy: jaccard(texts[copy], texts[of]) for copy, of in source.items()}
    true = {copy for copy, value in alike.items() if value >= THRESHOLD}
    left_out = set(range(len(texts))) - kept
    print(f"  planted {len(source)}, of which {len(true)} reach {THRESHOLD}; left out {len(left_out)}: "
          f"recall {len(true & left_out) / len(true):.4f}, precision {len(true & left_out) / max(1, len(left_out)):.4f}")
    for low, high in ((0.8, 0.85), (0.85, 0.9), (0.9, 1), (1, 1.01)):
        some = {copy for copy, value in alike.items() if low <= value < high}
        print(f"  similarity {low} to {min(high, 1)}: found {len(some & left_out)} of {len(some)}")


def similar(asked: argparse.Namespace) -> None:
    """Leave out rows whose vectors are near."""
    draw = np.random.default_rng(0)
    matrix = draw.standard_normal((asked.rows, asked.dimensions), dtype=np.float32)
    copies = int(asked.rows * asked.share)
    matrix[-copies:] = matrix[:copies] + 0.1 * draw.standard_normal((copies, asked.dimensions), dtype=np.float32)
    table = pa.table({"embedding": vectors.array(matrix, [True] * len(matrix)), "number": range(len(matrix))})
    kept = measured("dedupe_similar", lambda: numbers(dedupe_similar.function(Stored(table, {}))))
    found = copies - len(kept & set(range(asked.rows)[-copies:]))
    print(f"  planted {copies}, of which {found} were found; left out {asked.rows - len(kept)}")


def contaminated(asked: argparse.Namespace) -> None:
    """Leave out rows that share 13 words with a benchmark of 10,000 texts, some of which are parts of rows."""
    texts, _ = planted(asked)
    random.seed(1)
    words = vocabulary()
    some = set(random.sample(range(len(texts)), len(texts) // 100))
    parts = [" ".join(texts[number].split()[10:40]) for number in some]
    benchmark = parts + [sentence(words, 40) for _ in range(max(0, 10_000 - len(parts)))]
    with tempfile.TemporaryDirectory() as folder:
        known = on_disk(({"text": text, "number": number} for number, text in enumerate(texts)), Path(folder, "rows"))
        against = on_disk(({"text": text} for text in benchmark), Path(folder, "benchmark"))
        kept = measured("decontaminate", lambda: numbers(decontaminate.function(known, against)))
    print(f"  planted {len(some)}; found of them {len(some - kept)}, left out in all {len(texts) - len(kept)}")


def planted(asked: argparse.Namespace) -> tuple[list[str], dict[int, int]]:
    """Return texts, and for each copy of an earlier one the number of that."""
    random.seed(0)
    words, texts, source = vocabulary(), list[str](), dict[int, int]()
    for number in range(asked.rows):
        if texts and random.random() < asked.share:
            source[number] = random.randrange(len(texts))
            texts.append(changed(texts[source[number]], random.choice(CHANGED), words))
        else:
            texts.append(sentence(words, random.randint(asked.words * 4 // 5, asked.words * 6 // 5)))
    return texts, source


def vocabulary() -> list[str]:
    """Return words, no two alike."""
    return [f"{random.choice('bdfglmnprst')}{number:x}" for number in range(VOCABULARY)]


def sentence(words: list[str], count: int) -> str:
    """Return so many words, the first of the vocabulary more often."""
    return " ".join(words[int(VOCABULARY * random.random() ** 3)] for _ in range(count))


def changed(text: str, share: float, words: list[str]) -> str:
    """Return a text with other words in the place of some."""
    return " ".join(random.choice(words) if random.random() < share else word for word in text.split())


def jaccard(one: str, other: str) -> float:
    """Return the similarity of two texts by their runs of words."""
    left, right = set(grams(one, NGRAM)), set(grams(other, NGRAM))
    return len(left & right) / len(left | right)


def on_disk(given: Iterator[dict[str, Any]], folder: Path) -> Stored:
    """Return rows as they are read from disk."""
    rows.write(given, folder / "rows")
    found = rows_at(folder / "rows", ())
    assert found is not None
    return found


def numbers(batches: Any) -> set[int]:
    """Return the numbers of the rows that stayed."""
    return {number for batch in batches for number in batch.column("number").to_pylist()}


def measured(name: str, work: Any) -> Any:
    """Return what some work gives, and print what it took."""
    before, start = time.process_time(), time.perf_counter()
    found = work()
    print(f"{name}: {time.process_time() - before:.1f} CPU s, {time.perf_counter() - start:.1f} s, "
          f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB at most (the generated texts included)")
    return found


if __name__ == "__main__":
    main()
