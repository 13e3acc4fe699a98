"""The same graphs through ddmake, make, ninja, doit and Snakemake: CPU seconds of each phase, and ratios to doit.

    python benchmarks/engine.py                              # wide, chain and layer graphs of 100 and 1,000 jobs
    python benchmarks/engine.py --tools ddmake,doit --shapes wide -n 10000 --phases rest,dry
    python benchmarks/engine.py --tools ddmake --jobs rows -n 1000 --phases cold

Job i writes out/j<i>.txt. Shapes: `wide`, N jobs side by side; `chain`, each reads the one before; `layer`, ten layers of
N/10 jobs that read the whole layer before. Phases: `version`, `dry` (a dry run, all to do), `cold` (make all), `rest`
(make again, nothing to do), `dryrest` (a dry run at rest). Seconds are user and system, of the process and all that it
waited for; medians of --reps runs, one of `cold`. With --jobs rows (or dataset) ddmake's jobs yield a row (return a
`Dataset`) instead of writing a file. Tools that aren't on the PATH are left out and named.
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PHASES = ("version", "dry", "cold", "rest", "dryrest")  # in this order
DDMAKE = [sys.executable, "-m", "ddmake"]
COMMANDS = {
    "ddmake": {"version": [*DDMAKE, "--version"], "dry": [*DDMAKE, "-n"], "cold": [*DDMAKE, "-j2"], "rest": [*DDMAKE],
               "dryrest": [*DDMAKE, "-n"]},
    "make": {"version": ["make", "--version"], "dry": ["make", "-n", "-j2"], "cold": ["make", "-s", "-j2"],
             "rest": ["make", "-s", "-j2"], "dryrest": ["make", "-n", "-j2"]},
    "ninja": {"version": ["ninja", "--version"], "dry": ["ninja", "-n"], "cold": ["ninja", "-j2", "--quiet"],
              "rest": ["ninja", "-j2", "--quiet"], "dryrest": ["ninja", "-n"]},
    "doit": {"version": ["doit", "--version"], "dry": ["doit", "list", "--all", "--status"], "cold": ["doit"], "rest": ["doit"],
             "dryrest": ["doit", "list", "--all", "--status"]},
    "snakemake": {"version": ["snakemake", "--version"], "dry": ["snakemake", "-n", "-q"],
                  "cold": ["snakemake", "-j2", "-q", "all"], "rest": ["snakemake", "-j2", "-q", "all"],
                  "dryrest": ["snakemake", "-n", "-q"]},
}
DEPS = '''
def deps(i):
    if SHAPE == "wide":
        return []
    if SHAPE == "chain":
        return [i - 1] if i else []
    width = max(1, N // 10)
    layer = i // width
    return list(range((layer - 1) * width, layer * width)) if layer else []
'''
RECIPES = {
    "files": "def job(inputs, output, *, i):\n    output.write_text(f'{i}\\n')",
    "rows": "def job(inputs, *, i):\n    yield {'i': i}",
    "dataset": "def job(inputs, *, i):\n    import datasets\n    return datasets.Dataset.from_dict({'i': [i]})",
}


def ddfile(shape: str, n: int, jobs: str) -> dict[str, str]:
    """Return ddmake's file, by name."""
    path = "out/j{i}.txt" if jobs == "files" else "out/j{i}"
    text = (f"from ddmake import step\nSHAPE, N = {shape!r}, {n}\n{DEPS}\n\n@step\n{RECIPES[jobs]}\n\n\nmade = []\n"
            f"for i in range(N):\n    made.append(job(f'{path}', [made[d] for d in deps(i)], i=i))\n")
    return {"Ddfile": text}


def makefile(shape: str, n: int, deps: list[list[int]]) -> dict[str, str]:
    """Return make's file, by name."""
    rules = [f"out/j{i}.txt: {' '.join(f'out/j{d}.txt' for d in before)}\n\t@echo {i} > $@\n" for i, before in enumerate(deps)]
    return {"Makefile": f".PHONY: all\nall: {' '.join(f'out/j{i}.txt' for i in range(n))}\n" + "".join(rules)}


def ninja(shape: str, n: int, deps: list[list[int]]) -> dict[str, str]:
    """Return ninja's file, by name."""
    builds = [f"build out/j{i}.txt: w {' '.join(f'out/j{d}.txt' for d in before)}\n  n = {i}\n" for i, before in enumerate(deps)]
    return {"build.ninja": "rule w\n  command = echo $n > $out\n" + "".join(builds)}


def doit(shape: str, n: int) -> dict[str, str]:
    """Return doit's file, by name."""
    return {"dodo.py": f"""SHAPE, N = {shape!r}, {n}
DOIT_CONFIG = {{"verbosity": 0, "reporter": "executed-only", "default_tasks": ["job"]}}
{DEPS}

def task_job():
    for i in range(N):
        out = f"out/j{{i}}.txt"
        task = dict(name=str(i), file_dep=[f"out/j{{d}}.txt" for d in deps(i)], targets=[out], actions=[f"echo {{i}} > {{out}}"])
        if not task["file_dep"]:
            task["uptodate"] = [True]
        yield task
"""}


def snakefile(shape: str, n: int) -> dict[str, str]:
    """Return Snakemake's file, by name."""
    return {"Snakefile": f"""SHAPE, N = {shape!r}, {n}
{DEPS}
rule all:
    input: [f"out/j{{i}}.txt" for i in range(N)]

rule job:
    input: lambda w: [f"out/j{{d}}.txt" for d in deps(int(w.i))]
    output: "out/j{{i}}.txt"
    wildcard_constraints: i=r"\\d+"
    shell: "echo {{wildcards.i}} > {{output}}"
"""}


def write(tool: str, shape: str, n: int, jobs: str, folder: Path) -> None:
    """Write a tool's description of a graph into a folder."""
    scope: dict = {"SHAPE": shape, "N": n}
    exec(DEPS, scope)
    deps = [scope["deps"](i) for i in range(n)] if tool in ("make", "ninja") else []
    files = {"ddmake": lambda: ddfile(shape, n, jobs), "make": lambda: makefile(shape, n, deps),
             "ninja": lambda: ninja(shape, n, deps), "doit": lambda: doit(shape, n), "snakemake": lambda: snakefile(shape, n)}
    (folder / "out").mkdir()
    for name, text in files[tool]().items():
        (folder / name).write_text(text)


def measure(command: list[str], folder: Path, limit: int) -> tuple[float, float] | None:
    """Return CPU and wall seconds of a command with its children, or None where it failed or took too long."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    try:
        done = subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=limit)
    except subprocess.TimeoutExpired:
        return None
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        print(f"  {command[0]} failed: {done.stderr.decode()[-300:]}", file=sys.stderr)
        return None
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, time.monotonic() - started


def bench(tool: str, shape: str, n: int, args: argparse.Namespace) -> dict[str, float]:
    """Run a tool's phases on one graph, and return the median CPU seconds of each."""
    found = {}
    with tempfile.TemporaryDirectory(dir=args.dir) as name:
        folder = Path(name)
        write(tool, shape, n, args.jobs, folder)
        asked = args.phases.split(",")
        for phase in PHASES:
            if phase == "rest" and {"rest", "dryrest"} & set(asked):
                measure(COMMANDS[tool]["cold"], folder, args.limit)  # all is made now, and what was just written is trusted
                measure(COMMANDS[tool]["rest"], folder, args.limit)
            if phase not in asked:
                continue
            times = 1 if phase == "cold" else args.reps
            runs = [run for _ in range(times) if (run := measure(COMMANDS[tool][phase], folder, args.limit))]
            if len(runs) < times:
                break
            found[phase], wall = (statistics.median(values) for values in zip(*runs))
            print(f"{tool:10} {shape:6} {n:7,} {phase:8} {found[phase]:8.3f} CPU-s {wall:8.2f} wall"
                  + (f"  {1000 * found[phase] / n:.2f} ms a job" if phase == "cold" else ""), flush=True)
    return found


def main() -> None:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tools", default="ddmake,make,ninja,doit,snakemake")
    parser.add_argument("--shapes", default="wide,chain,layer")
    parser.add_argument("-n", default="100,1000")
    parser.add_argument("--phases", default="version,dry,cold,rest,dryrest")
    parser.add_argument("--jobs", default="files", choices=list(RECIPES))
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--limit", type=int, default=600, help="seconds a command may take")
    parser.add_argument("--dir", help="where the graphs are made; a memory file system takes the disk out of it")
    args = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or each start compiles every module
    for n in map(int, args.n.split(",")):
        for shape in args.shapes.split(","):
            found = {}
            for tool in args.tools.split(","):
                if tool != "ddmake" and shutil.which(tool) is None:
                    print(f"{tool} isn't on the PATH", file=sys.stderr)
                    continue
                found[tool] = bench(tool, shape, n, args)
            ours, theirs = found.get("ddmake", {}), found.get("doit", {})
            ratios = {phase: ours[phase] / theirs[phase] for phase in ours if theirs.get(phase)}
            if ratios:
                print("ddmake / doit: " + ", ".join(f"{phase} {ratio:.2f}" for phase, ratio in ratios.items()), flush=True)


main()
