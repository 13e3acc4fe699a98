"""CPU seconds of what everybody waits for: `--version`, a dry run at rest, a dry run of many rules to do.

Run as: python benchmarks/startup.py. It prints user + system seconds of the whole process, the median of five.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

DDFILE = """
from ddmake import config, step

cfg = config(n=5)


@step
def number(*, i):
    yield {"i": i}


for i in range(cfg.n):
    number(f"out/{i}.jsonl", i=i)
"""


def cpu_seconds(folder: Path, *args: str) -> float:
    """Return the median CPU seconds of five runs of ddmake."""
    found = []
    for _ in range(5):
        before = os.times()
        subprocess.run([sys.executable, "-m", "ddmake", *args], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        found.append(after.children_user + after.children_system - before.children_user - before.children_system)
    return statistics.median(found)


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "Ddfile").write_text(DDFILE)
        subprocess.run([sys.executable, "-m", "ddmake"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        cases = {"--version": ["--version"], "-n, 5 rules at rest": ["-n"], "-n, 1,000 rules to do": ["-n", "n=1000"]}
        for label, args in cases.items():
            print(f"{label:24} {cpu_seconds(folder, *args):.2f} CPU-s")


main()
