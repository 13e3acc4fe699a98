"""`ddmake cards` of the last target of a chain: CPU seconds of the whole command, and of the card alone.

    python benchmarks/cards.py                # 1,000 rules, each of which asks a toy
    python benchmarks/cards.py --rules 3000

Each rule asks `echo` about the row of the one before it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from ddmake.cards.card import card
from ddmake.cards.lineage import Lineage
from ddmake.cards.readme import readme
from ddmake.store import open_store

DDFILE = '''
from ddmake import llm
from ddmake.rules import rows, transform

made = rows("data/0000", values=[{{"text": "a"}}])
for number in range(1, {rules}):
    made = transform(f"data/{{number:04}}", made, llm=llm("echo"), prompt=f"{{number}}: " + "{{{{ text }}}}", column="said")
'''


def cpu(command: list[str], folder: Path) -> float:
    """Run a command, and return its CPU seconds."""
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0, command
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Make the chain, write its last card, and print what that took."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--rules", type=int, default=1000)
    given = asked.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root, last = Path(folder), f"data/{given.rules - 1:04}"
        (root / "Ddfile").write_text(DDFILE.format(rules=given.rules))
        ddmake = [sys.executable, "-m", "ddmake"]
        cpu(ddmake, root)
        whole = min(cpu([*ddmake, "cards", last], root) for _ in range(3))
        with closing(open_store(root)) as store:
            began = time.process_time()
            found = card(store, Lineage(store.traces), last)
            made = time.process_time()
            text = readme(found)
            written = time.process_time()
    size = len(json.dumps(found, indent=2))
    print(f"{given.rules:,} rules: {whole:.2f} CPU-s of the command; the card {made - began:.2f}, its README "
          f"{written - made:.2f}; {size / 1e6:.1f} MB of JSON, {len(text) / 1e6:.1f} MB of Markdown")


if __name__ == "__main__":
    main()
