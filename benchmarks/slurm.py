"""What ddmake adds to Slurm: many trivial jobs, packed into warm tasks and one a task, beside a raw array of Python processes.

    SLURM_CONF=… python benchmarks/slurm.py [--jobs 1000] [--unpacked 200]

Run it where sbatch works; tests/slurm_cluster.py brings up a cluster on one machine. Wall seconds from the command to the last
result; CPU seconds are of all processes of this machine, so on a cluster of one machine they hold the tasks' too. Compare
figures of one run.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

DDFILE = """\
from ddmake import *

cfg = config(n=1, slow=0)
for number in range(cfg.n):
    @step(f"data/{number}", number=number, slow=cfg.slow)
    def one(*, number, slow):
        import time
        time.sleep(slow)
        return [{"number": number}]
"""
RAW = "import os, sys; open(os.path.join(sys.argv[1], os.environ['SLURM_ARRAY_TASK_ID']), 'w').write('{}')"
COUNTER = '#!/bin/sh\necho "$(basename "$0")" >> {log}\nexec {real} "$@"\n'
FILES = """\
from ddmake import *

cfg = config(n=1, slow=0)
for number in range(cfg.n):
    @step(f"data/{number}.txt", number=number)
    def one(output, *, number):
        output.write_text(str(number))
"""
COMMANDS = ("sbatch", "squeue", "scontrol", "sacct", "scancel")


def cpu() -> float:
    """Return the CPU seconds that this machine's processes have used since it was started."""
    ticks = [int(part) for part in Path("/proc/stat").read_text().split("\n")[0].split()[1:]]
    return (ticks[0] + ticks[1] + ticks[2]) / os.sysconf("SC_CLK_TCK")


def measured(what: str, count: int, do: Callable[[], object]) -> tuple[float, float]:
    """Do something, and print and return the seconds and the CPU seconds that it took."""
    began, used = time.perf_counter(), cpu()
    do()
    seconds, spent = time.perf_counter() - began, cpu() - used
    print(f"{what:<34}{count:>6} {seconds:8.1f} s {spent:8.1f} CPU-s {1000 * spent / count:8.0f} ms a job", flush=True)
    return seconds, spent


def raw(count: int) -> None:
    """Run an array of as many Python processes, each of which leaves a file."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        script = f"#!/bin/sh\nexec {sys.executable} -c \"{RAW}\" {folder}\n"
        subprocess.run(["sbatch", f"--array=0-{count - 1}%64", "--output=/dev/null"], input=script, text=True, check=True,
                       capture_output=True)
        while len(os.listdir(folder)) < count:
            time.sleep(0.1)


def project(folder: Path, pack: bool, rules: str = DDFILE) -> Path:
    """Write a project of jobs that do nothing."""
    folder.mkdir()
    (folder / "Ddfile").write_text(rules)
    (folder / "pyproject.toml").write_text(f"[tool.ddmake.slurm]\npack = {str(pack).lower()}\n")
    return folder


def ddmake(folder: Path, *words: str, env: dict[str, str] | None = None) -> str:
    """Run ddmake on the cluster, and return what it printed."""
    command = [sys.executable, "-m", "ddmake", "--executor", "slurm", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=env)
    if done.returncode:
        sys.exit(done.stdout[-2000:] + done.stderr)
    return done.stdout


def counted(folder: Path) -> tuple[dict[str, str], Path]:
    """Return an environment in which each command of Slurm notes that it was called, and where."""
    tools, log = folder / "tools", folder / "calls.log"
    tools.mkdir()
    for name in COMMANDS:
        real = subprocess.run(["which", name], capture_output=True, text=True).stdout.strip()
        (tools / name).write_text(COUNTER.format(log=log, real=real))
        (tools / name).chmod(0o755)
    return {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}, log


def _begun(folder: Path) -> int:
    """Return how many jobs of a project's nodes have begun, by their logs."""
    return sum(1 for _ in (folder / ".ddmake" / "logs").rglob("*.log"))


def taken_up(folder: Path, count: int) -> None:
    """Kill a head whose jobs are on the cluster, and time how long another takes until it listens to them."""
    command = [sys.executable, "-m", "ddmake", "--executor", "slurm", f"n={count}", "slow=90"]
    head = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    while head.stdout and f"making data/{count - 1}\n" != head.stdout.readline():
        pass
    begun = -1
    while begun < (begun := _begun(folder)):  # tasks that start would share the head's cores, where the nodes are this machine
        time.sleep(5)
    head.send_signal(signal.SIGKILL)
    head.wait()
    began = time.perf_counter()
    head = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    while head.stdout and f"making data/{count - 1}\n" != head.stdout.readline():
        pass
    spent = sum(map(int, Path(f"/proc/{head.pid}/stat").read_text().split()[13:15])) / os.sysconf("SC_CLK_TCK")
    print(f"{'taken up again':<34}{count:>6} {time.perf_counter() - began:8.2f} s {spent:8.2f} CPU-s, start included", flush=True)
    head.send_signal(signal.SIGKILL)
    head.wait()
    subprocess.run([sys.executable, "-m", "ddmake", "cancel"], cwd=folder, capture_output=True)


def submitted(folder: Path, count: int) -> None:
    """Time how long a head takes from the first job to the last one's hand-over."""
    command = [sys.executable, "-m", "ddmake", "--executor", "slurm", f"n={count}", "slow=3"]
    head = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    assert head.stdout is not None
    head.stdout.readline()
    began = time.perf_counter()
    while not any((folder / ".ddmake" / "slurm").glob("*/job")):
        time.sleep(0.005)
    print(f"{'handed over to Slurm':<34}{count:>6} {time.perf_counter() - began:8.2f} s", flush=True)
    head.send_signal(signal.SIGKILL)
    head.wait()
    subprocess.run([sys.executable, "-m", "ddmake", "cancel"], cwd=folder, capture_output=True)


def main() -> None:
    """Measure all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--unpacked", type=int, default=200)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as place:
        root = Path(place)
        packed, single = project(root / "packed", True), project(root / "single", False)
        ddmake(packed, "n=1")  # what is cold becomes warm
        measured("ddmake, one job", 1, lambda: ddmake(packed, "n=1", "--force", "data/0"))
        measured("raw array", given.jobs, lambda: raw(given.jobs))
        measured("ddmake, packed", given.jobs, lambda: ddmake(packed, f"n={given.jobs}"))
        _, bare = measured("raw array", given.unpacked, lambda: raw(given.unpacked))
        for what, folder in (("a file each", project(root / "files", False, FILES)), ("a row each", single)):
            _, ours = measured(f"ddmake, a task a job, {what}", given.unpacked, partial(ddmake, folder, f"n={given.unpacked}"))
            print(f"{'a task above the raw array':<34}{'':>6} {(ours - bare) / given.unpacked:8.2f} CPU-s", flush=True)
        env, log = counted(root)
        began = time.perf_counter()
        ddmake(project(root / "waiting", True), "n=64", "slow=60", env=env)
        minutes = (time.perf_counter() - began) / 60
        calls = len(log.read_text().splitlines()) / minutes
        print(f"{'calls of Slurm while waiting':<34}{'':>6} {calls:8.1f} a minute", flush=True)
        submitted(project(root / "submitted", True), given.jobs)
        taken_up(project(root / "left", True), given.jobs)


if __name__ == "__main__":
    main()
