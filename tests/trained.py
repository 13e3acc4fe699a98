"""What tests of trainings share: a script trains everything once in a process of its own, and the tests look at what it left."""

import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def train_all(script: str, folder: Path) -> Path:
    """Run a script of this folder that trains models in another one, and return that."""
    paths = [str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(paths)}
    subprocess.run([sys.executable, HERE / script, folder], env=env, check=True, capture_output=True)
    return folder


def log(runs: Path, name: str) -> str:
    """Return what a training printed."""
    return (runs / f"{name}.log").read_text()


def metrics(runs: Path, name: str) -> dict:
    """Return the metrics of a training that went well."""
    assert (runs / f"{name}.status").read_text() == "0", log(runs, name)
    return json.loads((runs / name / "metrics.json").read_text())


def without_clock(found: dict) -> dict:
    """Return metrics but for the time that it took."""
    return {name: value for name, value in found.items() if name != "runtime_s"}
