"""Guards: imports go down, and nothing heavy is loaded before it is needed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ddmake

ROOT = Path(ddmake.__file__).parent
FLOORS = ["cli", "report", "sharing", "rules", "engine", "executors", "trainers", "calls", "backends", "cards", "artifacts", "store",
          "ddfile", "fingerprint", "toys", "errors"]  # from the roof down
HEAVY = {"torch", "transformers", "datasets", "litellm", "pyarrow", "numpy", "trl", "peft", "sqlite_utils", "aiohttp", "pandas"}


def imported(file: Path) -> set[str]:
    """Return the rooms of ddmake that a file imports, wherever in it."""
    rooms = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{a.name}" for a in node.names] if node.module == "ddmake" else [node.module]
        rooms |= {name.split(".")[1] for name in names if name.startswith("ddmake.")}
    return rooms & set(FLOORS)


@pytest.mark.parametrize("room", FLOORS)
def test_imports_go_down(room):
    files = [ROOT / f"{room}.py"] if (ROOT / f"{room}.py").exists() else sorted((ROOT / room).glob("**/*.py"))
    assert files
    for file in files:
        above = FLOORS[:FLOORS.index(room)]
        climbing = imported(file) & set(above)
        assert not climbing, f"{file.relative_to(ROOT)} imports {climbing} from a floor above"


def test_only_one_file_knows_networkx():
    knowing = [str(file.relative_to(ROOT)) for file in ROOT.glob("**/*.py") if "networkx" in file.read_text()]
    assert knowing == ["engine/graph.py"]


def test_nothing_is_pickled():
    for file in ROOT.glob("**/*.py"):
        tree = ast.parse(file.read_text())
        names = {a.name for n in ast.walk(tree) if isinstance(n, (ast.Import, ast.ImportFrom)) for a in n.names}
        assert not names & {"pickle", "dill", "cloudpickle", "joblib", "shelve"}, file


def loaded(code: str, folder: Path) -> set[str]:
    """Return the heavy packages that a piece of Python has loaded at its end."""
    script = f"{code}\nimport sys\nprint('LOADED', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True)
    assert "LOADED" in done.stdout, done.stderr
    return HEAVY & set(done.stdout.split("LOADED")[1].split())


RUN = "import sys\nfrom ddmake.cli.main import main\ntry: main({args})\nexcept SystemExit: pass"


def test_version_loads_nothing_heavy(tmp_path):
    assert loaded(RUN.format(args=["--version"]), tmp_path) == set()


def test_a_ddfile_loads_and_rests_without_anything_heavy(project):
    project.ddfile("""
        base = generate("g", llm=llm("echo"), prompt="x", n=3)
        parts = split("data", transform("t", base, llm=llm("echo"), column="y", prompt="{{ text }}"))
        @step("small", parts.train.take(1))
        def small(rows):
            return rows
    """)
    assert loaded("from ddmake import load\nload('Ddfile')", project.root) == set()
    project.make()
    assert loaded(RUN.format(args=["-n"]), project.root) == set()
    assert loaded(RUN.format(args=[]), project.root) == set()


def test_templates_and_recipes_are_the_top_levels():
    assert (ROOT / "rules" / "prompting.py").is_file() and (ROOT / "templates" / "tweet.j2").is_file()
