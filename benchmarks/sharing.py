"""How fast `ddmake pack` and `unpack` are, beside `tar` and `cp -r` on the same bytes.

    python benchmarks/sharing.py [--mb 2000] [--files 20] [--rounds 3] [--folder DIR]

A rule writes files of random bytes. In turns its bundle is packed, `tar` packs the folder that holds them, `cp -r` copies it,
`sha256sum` reads it, and the bundle is unpacked. Figures are CPU seconds (user and system) and seconds of the wall, the best of
the rounds; all is in the page cache.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DDFILE = '''
from ddmake import step

@step("data")
def data(output):
    import os
    output.mkdir(exist_ok=True)
    for number in range({files}):
        with open(output / f"{{number:05}}.bin", "wb") as file:
            for _ in range({size} >> 20):
                file.write(os.urandom(1 << 20))
            file.write(os.urandom({size} % (1 << 20)))
'''


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=2000)
    parser.add_argument("--files", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        room = Path(folder)
        (room / "here").mkdir()
        (room / "here" / "Ddfile").write_text(DDFILE.format(files=asked.files, size=asked.mb * 10**6 // asked.files))
        ddmake = [sys.executable, "-m", "ddmake"]
        subprocess.run(ddmake, cwd=room / "here", check=True, stdout=subprocess.DEVNULL)
        commands = {
            "ddmake pack": [*ddmake, "pack", "-o", "../all.tar"],
            "tar cf": ["tar", "cf", "../plain.tar", "data"],
            "cp -r": ["cp", "-r", "data", "../copy"],
            "sha256sum": ["bash", "-c", "sha256sum data/* > /dev/null"],
            "ddmake unpack": [*ddmake, "unpack", "../all.tar", "--to", "../there"],
            "tar xf": ["bash", "-c", "mkdir ../plain && tar xf ../plain.tar -C ../plain"],
        }
        best: dict[str, tuple[float, float]] = {}
        for _ in range(asked.rounds):
            for name, command in commands.items():
                for old in ("there", "copy", "plain"):
                    shutil.rmtree(room / old, ignore_errors=True)
                best[name] = min(best.get(name, (9e9, 9e9)), measured(command, room / "here"))
    for name, (cpu, wall) in best.items():
        print(f"{name:14} {cpu:6.2f} CPU-s  {wall:6.2f} s  {asked.mb / wall:7.0f} MB/s")


def measured(command: list[str], folder: Path) -> tuple[float, float]:
    """Return the CPU seconds of a command and the seconds that it took."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    os.sync()
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, time.monotonic() - began


if __name__ == "__main__":
    main()
