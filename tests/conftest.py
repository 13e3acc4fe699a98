"""The `project` fixture: a folder with a Ddfile in it, and ddmake to run there."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from click.testing import CliRunner

from ddmake.cli.main import main

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each process that a test starts would compile all of ddmake


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--until", type=float, metavar="SECONDS", help="of the clock since 1970; no test is begun later than that")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if time.time() > (item.config.getoption("--until") or float("inf")):
        pytest.skip("no time is left for it")


HEADER = """\
from ddmake import *
from ddmake.rules import *
"""


NUMBER = r"[–?]|~?[\d,.]+(?: [kM])?"
COSTS = rf"(?:(?:{NUMBER}) +(?:{NUMBER}) +(?:{NUMBER})(?: / (?:{NUMBER}))? +(?:{NUMBER}) {{2,}})?"  # columns of rules that ask an llm


@dataclass
class Result:
    """What a command printed, and how it ended."""

    code: int
    output: str

    def verdicts(self) -> dict[str, str]:
        """Return the verdict of each target that the table names."""
        rows = re.findall(r"^(make|restore|adopt|maybe|waiting|edited|fresh|manual) +(\S.*?)(?:  |$)", self.output, re.MULTILINE)
        return {target: word for word, targets in rows for target in targets.split(", ")}

    def why(self, target: str) -> str:
        """Return the reason that the table gives for a target."""
        return re.search(rf"^[a-z]+ +{re.escape(target)}(?:, \S+)* {{2,}}{COSTS}(.*)$", self.output, re.MULTILINE)[1]


class Project:
    """A folder with a Ddfile."""

    def __init__(self, root: Path):
        self.root = root

    def ddfile(self, text: str, header: str = HEADER) -> "Project":
        """Write the Ddfile."""
        (self.root / "Ddfile").write_text(header + dedent(text))
        return self

    def write(self, path: str, text: str) -> Path:
        """Write a file."""
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(dedent(text))
        return place

    def run(self, *args: str) -> Result:
        """Run ddmake here, in this process; its jobs have processes of their own."""
        before, cwd = set(sys.modules), Path.cwd()
        os.chdir(self.root)
        try:
            result = CliRunner().invoke(main, list(args), catch_exceptions=False)
        finally:
            os.chdir(cwd)
            for name in set(sys.modules) - before:
                if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(self.root)):
                    del sys.modules[name]
        return Result(result.exit_code, result.output)

    def make(self, *args: str) -> Result:
        """Run ddmake, which must succeed."""
        result = self.run(*args)
        assert result.code == 0, f"{result.output}\n{self.logs()}"
        return result

    def command(self, *args: str, **env: str) -> subprocess.Popen:
        """Start ddmake as a process of its own."""
        return subprocess.Popen([sys.executable, "-m", "ddmake", *args], cwd=self.root, text=True, env={**os.environ, **env},
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)

    def rows(self, path: str) -> list[dict[str, Any]]:
        """Return the rows of a dataset, as plain `datasets` reads them."""
        from datasets import load_from_disk

        return load_from_disk(str(self.root / path)).to_list()

    def lines(self, path: str) -> list[dict[str, Any]]:
        """Return the rows of a file of JSON lines."""
        return [json.loads(line) for line in (self.root / path).read_text().splitlines()]

    def logs(self) -> str:
        """Return all that jobs have printed."""
        return "\n".join(f"--- {p}\n{p.read_text()[-3000:]}" for p in sorted((self.root / ".ddmake").glob("logs/**/*.log")))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


class Service:
    """The fake service, in a process of its own."""

    def __init__(self, latency: float):
        script = str(Path(__file__).with_name("fake_openai.py"))
        self.process = subprocess.Popen([sys.executable, script, str(latency)], stdout=subprocess.PIPE, text=True)
        self.root = f"http://127.0.0.1:{int(self.process.stdout.readline())}"
        self.url = f"{self.root}/v1"

    def counts(self) -> dict:
        with urllib.request.urlopen(f"{self.root}/counts") as reply:
            return json.load(reply)

    def fail(self, share: float, *kinds: str, **more: str) -> None:
        data = json.dumps({"share": share, "kinds": kinds, **more}).encode()
        urllib.request.urlopen(urllib.request.Request(f"{self.root}/faults", data=data)).close()


@pytest.fixture
def service(request):
    found = Service(getattr(request, "param", 0.0))
    yield found
    found.process.kill()
    found.process.wait()


@pytest.fixture(scope="session")
def cluster():
    """A real Slurm on this machine, the same for all tests of a process."""
    import slurm_cluster

    if lacking := slurm_cluster.missing():
        pytest.skip(f"this machine has no {', '.join(lacking)}: apt-get install munge slurmctld slurmd slurm-client")
    found = slurm_cluster.Cluster()
    yield found
    found.stop()


@pytest.fixture
def spy(cluster, tmp_path_factory, monkeypatch):
    """Give a spy for a command of Slurm's."""
    from slurm_cluster import Spy

    folder = tmp_path_factory.mktemp("bin")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return lambda name: Spy(folder, name)


@pytest.fixture
def quick(monkeypatch):
    """Have heads of this process ask Slurm often."""
    from ddmake.executors.slurm import head, listening

    monkeypatch.setattr(head, "ASKS", ((float("inf"), 0.5),))
    for room in (head, listening):
        monkeypatch.setattr(room, "GRACE", 1.0)


@pytest.fixture(autouse=True)
def nothing_left(request):
    """See that a test leaves no job behind."""
    yield
    if "cluster" in request.fixturenames:
        request.getfixturevalue("cluster").empty()
