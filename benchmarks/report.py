"""`ddmake report` of many rules with many rows: CPU seconds, memory and the size of the page.

    python benchmarks/report.py                       # 100 rules with 200 rows of 1 kB
    python benchmarks/report.py --rules 1000 --rows 20

A row holds a prompt and an answer of words drawn from 5,000; the rules are a chain, so that each is another one's input.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

DDFILE = '''
import random

from ddmake import step


@step
def rows(before, *, seed):
    """Draw rows of a prompt and an answer."""
    words = ["".join(random.Random(n).choices("abcdefghijklmnopqrstuvwxyz", k=3 + n % 8)) for n in range(5000)]
    draw = random.Random(seed)
    for _ in range({rows}):
        text = " ".join(draw.choices(words, k=150))
        yield {{"prompt": text[:400], "answer": text[400:1000]}}


made = []
for number in range({rules}):
    made.append(rows(f"data/{{number:04}}", made[-1:], seed=number))
'''


def cpu(command: list[str], folder: Path) -> tuple[float, int]:
    """Run a command, and return its CPU seconds and the most memory it took, in bytes."""
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0, command
    return used.ru_utime + used.ru_stime, used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    """Make the rules, report them, and print what it took."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--rules", type=int, default=100)
    asked.add_argument("--rows", type=int, default=200)
    given = asked.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "Ddfile").write_text(DDFILE.format(rules=given.rules, rows=given.rows))
        ddmake = [sys.executable, "-m", "ddmake"]
        cpu(ddmake, Path(folder))
        seconds, memory = cpu([*ddmake, "report", "--rows", str(given.rows)], Path(folder))
        size = (Path(folder) / "report.html").stat().st_size
    print(f"{given.rules:,} rules, {given.rules * given.rows:,} rows: {seconds:.2f} CPU-s, {memory / 1e6:.0f} MB of memory, "
          f"a page of {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
