"""Sources: what of a file becomes which rows, in how much memory, and what is told of a file that is broken."""

import json
import subprocess
import sys
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from conftest import Project
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value, load_from_disk
from fake_hub import FakeHub
from test_hub import Place

FILES = {  # what lies beside the Ddfile
    "a.csv": b"x,y\n1,a\n2,b\n", "b.csv": b"y,x\nc,2.5\n", "other.csv": b"x,z\n1,2\n", "bom.csv": b"\xef\xbb\xbfx\n1\n",
    "null.csv": b'n,t,b\n1,,true\n,"",false\n', "semi.csv": b"x;y\n'1;2';3\n", "bare.csv": b"1,a\n2,b\n",
    "lines.csv": b'x,y\n"a\nb",1\n"c ""d""",2\n', "odd.csv": b"zip,big,date,f,e,n\n007,123456789012345678901,2024-01-01,1e3,,-1\n10,1,2024-01-02,.5,,5\n",
    "head.csv": b"x,y\n", "bare_head.csv": b"x,y", "blank_first.csv": b"\nx\n1\n", "open.csv": b'x,y\n1,"a ""b""\n2,c\n',
    "quotes.csv": b'x,y\n1,"a"\n2,"b ""c"""\n3,5"d\n4,""', "cr.csv": b"x,y\r1,2\r",
    "long.csv": b'x\n"' + b"a" * 200_000 + b'"\n1,2\n', "half.jsonl": b'{"x": "\\ud83d\\ude00"}\n{"x": ["\\ud83d"]}\n',
    "two.json": b'[{"x": 1}]\n[{"x": 2}]', "half.json": b'[{"x": 1},\n{"\\udc00": 2}]', "twice.parquet": b"", "empty.csv": b"", "ragged.csv": b'x,y\n"1\n1",2\n3,4,5\n', "latin.csv": b"x\ncaf\xe9\n",
    "twice.csv": b"x,x\n1,2\n", "unnamed.csv": b"x,\n1,2\n", "truth.csv": b"b,c\nTrue,true\nfalse,1\n",
    "one.jsonl": b'\xef\xbb\xbf{"x": 1}\n\n{"x": 2}\n', "two.jsonl": b'{"x": 3, "y": 4}\n', "bad.jsonl": b'{"x": 1}\n{"x": }\n', "latin.jsonl": b'{"x": 1}\n{"x": "\xe9"}\n',
    "list.json": b' [ {"x": 1, "y": ["\\u00e9"]} , {"x": 2.5} ] ', "deep.json": b'{"a": {"n": [1, {"b": "]"}], "data": {"items": [{"x": 1}]}}, "z": 1}',
    "none.json": b"[]", "cut.json": b'[{"x": 1},\n{"x": 2', "wrong.json": b'[{"x": 1},\n{"x": 2 "y"}]', "numbers.json": b"[1]", "comma.json": b'[{"x": 1}\n{"x": 2}]',
    "t.txt": b"a\r\n\r\nb \nc\n\n\n\nd", "latin.txt": b"a\nb\xe9\n", "empty.txt": b"", "not.parquet": b"PAR",
}
GOOD = {  # a source, and its rows
    'csv("o", "a.csv")': [{"x": 1, "y": "a"}, {"x": 2, "y": "b"}],
    'csv("o", ["a.csv", "b.csv"])': [{"x": 1.0, "y": "a"}, {"x": 2.0, "y": "b"}, {"x": 2.5, "y": "c"}],
    'csv("o", "bom.csv")': [{"x": 1}],
    'csv("o", "null.csv")': [{"n": 1, "t": None, "b": True}, {"n": None, "t": "", "b": False}],
    'csv("o", "semi.csv", delimiter=";", quote="\'")': [{"x": "1;2", "y": 3}],
    'csv("o", "semi.csv", delimiter=":", quote=None)': [{"x;y": "'1;2';3"}],
    'csv("o", "bare.csv", header=["n", "t"])': [{"n": 1, "t": "a"}, {"n": 2, "t": "b"}],
    'csv("o", "lines.csv")': [{"x": "a\nb", "y": 1}, {"x": 'c "d"', "y": 2}],
    'csv("o", "odd.csv")': [{"zip": "007", "big": "123456789012345678901", "date": "2024-01-01", "f": 1000.0, "e": None, "n": -1},
                            {"zip": "10", "big": "1", "date": "2024-01-02", "f": 0.5, "e": None, "n": 5}],
    'csv("o", "head.csv")': [],
    'csv("o", "bare_head.csv")': [],
    'csv("o", "empty.csv", header=["x"])': [],
    'csv("o", "blank_first.csv")': [{"x": 1}],
    'csv("o", "quotes.csv")': [{"x": 1, "y": "a"}, {"x": 2, "y": 'b "c"'}, {"x": 3, "y": '5"d'}, {"x": 4, "y": ""}],
    'csv("o", "truth.csv")': [{"b": True, "c": "true"}, {"b": False, "c": "1"}],
    'jsonl("o", "one.jsonl")': [{"x": 1}, {"x": 2}],
    'json("o", "list.json")': [{"x": 1.0, "y": ["é"]}, {"x": 2.5, "y": None}],
    'json("o", "deep.json", field="a.data.items")': [{"x": 1}],
    'text("o", "t.txt")': [{"text": line} for line in ("a", "", "b ", "c", "", "", "", "d")],
    'text("o", "t.txt", by="paragraph", column="p")': [{"p": "a"}, {"p": "b \nc"}, {"p": "d"}],
    'text("o", ["t.txt", "empty.txt"], by="file")': [{"text": "a\n\nb \nc\n\n\n\nd"}, {"text": ""}],
    'text("o", "empty.txt")': [],
    'rows("o", values=[{"x": 1}, {"x": 2, "y": [None, "é"]}])': [{"x": 1, "y": None}, {"x": 2, "y": [None, "é"]}],
    'parquet("o", "typed.parquet", columns=["day", "label"])': [{"day": date(2024, 1, 1), "label": 1}, {"day": None, "label": 0}],
    'parquet("o", ["typed.parquet", "typed.parquet"], columns=["text"])': [{"text": "a"}, {"text": "b"}] * 2,
    'saved("o", "one")': [{"label": 1}, {"label": 0}],
    'saved("o", "parts", split="test")': [{"label": 0}],
}
BAD = {  # a source, and what is told of it
    'csv("o", "ragged.csv")': "ragged.csv:4: 3 values, and there are 2 columns (delimiter=',').",
    'csv("o", "latin.csv")': "latin.csv:2: byte 0xe9 isn't UTF-8. Convert the file: iconv -f latin1",
    'csv("o", "twice.csv")': "twice.csv:1 has two columns 'x'.",
    'csv("o", "unnamed.csv")': "unnamed.csv:1 has no name for column 2.",
    'csv("o", "empty.csv")': "empty.csv is empty; a CSV file begins with the names of its columns",
    'csv("o", ["a.csv", "other.csv"])': "other.csv has no column 'y', and a.csv has. It has: x, z.",
    'csv("o", "folder")': "csv reads files, and folder is a folder.",
    'csv("o", [])': "csv reads files, and was given an empty list.",
    'csv("o", "open.csv")': "open.csv: a quote isn't closed: the one before 'a \"b\"\\n2,c\\n'.",
    'csv("o", "cr.csv")': "cr.csv:1: the names of the columns can't be read. Lines end with a line feed",
    'csv("o", "long.csv")': "long.csv: CSV parse error:",
    'jsonl("o", "half.jsonl")': "half.jsonl:2: \\ud83d is half of a character",
    'json("o", "half.json")': "half.json:2: \\udc00 is half of a character",
    'json("o", "two.json")': "two.json:2: the list ends before this, and a file holds one list.",
    'parquet("o", [])': "parquet reads files, and was given an empty list.",
    'parquet("o", "twice.parquet")': "twice.parquet: the column 'x' is there, or named by columns=, twice.",
    'parquet("o", "typed.parquet", columns=["day", "day"])': "typed.parquet: the column 'day' is there, or named by columns=, twice.",
    'jsonl("o", "bad.jsonl")': "bad.jsonl:2: Expecting value",
    'jsonl("o", "latin.jsonl")': "latin.jsonl:2: byte 0xe9 isn't UTF-8.",
    'jsonl("o", ["one.jsonl", "two.jsonl"])': "one.jsonl has no column 'y', and two.jsonl has.",
    'json("o", "deep.json")': "deep.json:1: this is an object, and a list of objects is needed. Name the list in it by field=",
    'json("o", "deep.json", field="a.dat")': "deep.json: there is no field 'dat' in 'a'. There are: n, data. Did you mean 'data'?",
    'json("o", "deep.json", field="a.n.b")': "deep.json:1: there is no object at 'a.n' to find 'b' in",
    'json("o", "deep.json", field="a")': "deep.json:1: there is no list at 'a'",
    'json("o", "none.json")': "it made no rows",
    'json("o", "cut.json")': "cut.json:2: Expecting",
    'json("o", "wrong.json")': "wrong.json:2: Expecting ',' delimiter",
    'json("o", "comma.json")': "comma.json:2: a comma or the list's end is expected",
    'json("o", "numbers.json")': "numbers.json:1: each item of the list is an object",
    'text("o", "latin.txt")': "latin.txt:2: byte 0xe9 isn't UTF-8.",
    'parquet("o", "not.parquet")': "not.parquet is no Parquet file",
    'parquet("o", "typed.parquet", columns=["dai"])': "typed.parquet has no column 'dai'. Columns: day, label, text, category. Did you mean 'day'?",
    'saved("o", "parts")': "parts has the splits train, test: name one by split=.",
    'saved("o", "parts", split="tset")': "parts has no split 'tset'. There are: train, test. Did you mean 'test'?",
    'saved("o", "folder")': "folder is no dataset that save_to_disk has saved.",
}
PLANNED = {  # what is told before anything runs
    'rows("o", values=[{"x": 1}, 2])': "Ddfile:3: rows's values takes a list of dict, not [{'x': 1}, 2]",
    'rows("o", values=[{"x": 1}, {}])': "Ddfile:3: o: rows: row 1 is empty; a row is a dict of columns.",
    'rows("o", values=[])': "Ddfile:3: o: rows: values is empty",
    'csv("o", "a.csv", delimiter="||")': "Ddfile:3: o: csv: delimiter is one ASCII character, not '||'.",
    'text("o", "t.txt", by="word")': "Ddfile:3: text's by takes one of 'line', 'paragraph', 'file', not 'word'",
    'csv("o", "gone.csv")': "gone.csv, which isn't there",
}


def fill(root: Path) -> None:
    for name, content in FILES.items():
        (root / name).write_bytes(content)
    (root / "folder").mkdir()
    (root / "folder" / "x").write_text("")
    labels = Features({"label": ClassLabel(names=["no", "yes"])})
    Dataset.from_dict({"label": [1, 0]}, features=labels).save_to_disk(root / "one")
    parts = {"train": Dataset.from_dict({"label": [1]}, features=labels), "test": Dataset.from_dict({"label": [0]}, features=labels)}
    DatasetDict(parts).save_to_disk(root / "parts")
    typed = Features({"day": Value("date32"), "label": ClassLabel(names=["no", "yes"]), "text": Value("string")})
    table = Dataset.from_dict({"day": [date(2024, 1, 1), None], "label": [1, 0], "text": ["a", "b"]}, features=typed)
    table.to_parquet(root / "plain.parquet")
    whole = pa.parquet.read_table(root / "plain.parquet")
    pa.parquet.write_table(pa.table([[1], [2]], names=["x", "x"]), root / "twice.parquet")
    pa.parquet.write_table(whole.append_column("category", pa.array(["u", "v"]).dictionary_encode()), root / "typed.parquet")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A project that has run every source, good and bad."""
    project = Project(tmp_path_factory.mktemp("sources"))
    fill(project.root)
    calls = [call.replace('"o"', f'"o{number}"', 1) for number, call in enumerate([*GOOD, *BAD])]
    project.ddfile("\n".join(calls))
    project.told = project.run("-k", "-j", "1").output
    return project


@pytest.mark.parametrize("call", GOOD)
def test_rows_of_a_source(sources, call):
    path = sources.root / f"o{list(GOOD).index(call)}"
    assert path.exists(), sources.told
    found = load_from_disk(str(path))
    assert found.to_list() == GOOD[call]
    assert found.column_names, "columns are known where there are no rows, too"


@pytest.mark.parametrize("call", BAD)
def test_what_is_told_of_a_broken_source(sources, call):
    number = len(GOOD) + list(BAD).index(call)
    told = next(line for line in sources.told.splitlines() if line.startswith(f"o{number}: "))
    assert BAD[call] in told
    assert not (sources.root / f"o{number}").exists()


@pytest.mark.parametrize("call", PLANNED)
def test_what_is_told_of_a_source_before_anything_runs(project, call):
    fill(project.root)
    result = project.ddfile(call).run("o")
    assert (result.code, PLANNED[call] in result.output) == (2, True), result.output


def test_types_are_kept(project):
    fill(project.root)
    project.ddfile('parquet("p", "typed.parquet")\nsaved("s", "one")').make()
    assert load_from_disk(str(project.root / "p")).features["label"].names == ["no", "yes"]
    assert load_from_disk(str(project.root / "p")).features["category"] == Value("string")
    assert load_from_disk(str(project.root / "s")).features["label"].names == ["no", "yes"]


def test_types_are_told_by_the_whole_file(project):
    """A column that turns to text after many megabytes is text from the first row on."""
    with (project.root / "long.csv").open("w") as file:
        file.write("n,m,t\n")
        file.writelines(f"{i},{i},{'x' * 300}\n" for i in range(60_000))
        file.write("last,0.5,x\n")
    project.ddfile('csv("o", "long.csv")').make()
    found = load_from_disk(str(project.root / "o"))
    assert {name: feature.dtype for name, feature in found.features.items()} == {"n": "string", "m": "float64", "t": "string"}
    assert (found[7]["n"], found[60_000]["n"], found[60_000]["m"], len(found)) == ("7", "last", 0.5, 60_001)


def test_rows_of_many_megabytes(project):
    (project.root / "long.csv").write_text(f"n,t\n1,{'x' * 5_000_000}\n2,x\n")
    project.ddfile('csv("o", "long.csv")').make()
    assert [(row["n"], len(row["t"])) for row in project.rows("o")] == [(1, 5_000_000), (2, 1)]


def test_a_row_that_yields_is_a_source(project):
    project.ddfile("""
        @step("made", n=3)
        def made(*, n):
            yield from ({"x": i} for i in range(n))
    """).make()
    assert project.rows("made") == [{"x": 0}, {"x": 1}, {"x": 2}]


WRITE = {"csv": "f.write('t\\n'); f.writelines('x' * 1000 + '\\n' for _ in range({n}))",
         "json": "f.write('{{\"a\": {{}}, \"d\": [{{\"t\": \"y\"}}\\n'); f.writelines(',{{\"t\": \"' + 'x' * 1000 + '\"}}\\n' for _ in range({n})); f.write(']}}')",
         "text": "f.writelines('x' * 1000 + '\\n' for _ in range({n}))"}
MEASURE = """
import sys, threading, time
from pathlib import Path
from ddmake.artifacts.rows import write
from ddmake import rules

def held():  # kB that this process alone holds; pages of files that it has mapped don't count
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))

peak = before = 0
def watch():
    global peak
    while True:
        peak = max(peak, held())
        time.sleep(0.005)

kind, given = sys.argv[1], {"field": "d"} if sys.argv[1] == "json" else {}
write(getattr(rules, kind).function(Path("small"), **given) , Path("warm"))
before = held()
threading.Thread(target=watch, daemon=True).start()
assert write(getattr(rules, kind).function(Path("large"), **given), Path("out")) >= 100_000
print((max(peak, held()) - before) // 1000)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells how much memory a process holds")
@pytest.mark.parametrize("kind", WRITE)
def test_a_source_is_read_in_bounded_memory(tmp_path, kind):
    for name, n in (("small", 2000), ("large", 100_000)):
        with (tmp_path / name).open("w") as f:
            exec(WRITE[kind].format(n=n), {"f": f})
    done = subprocess.run([sys.executable, "-c", MEASURE, kind], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 100, "MB beyond what a small file takes, of a file of 100 MB"


def test_long_values_of_json_are_read_whole(project):
    """Values that are longer than the pieces that a file is read in, at whatever place these end."""
    items = [{"x": "é\\\"\n" * size, "n": {"deep": [size, -1.5e-7]}, "t": True} for size in (1, 300_000, 7, 260_001, 3)]
    (project.root / "long.json").write_text(json.dumps({"skip": {"a": "[" * 1_100_000}, "items": items}, indent=1))
    project.ddfile('json("o", "long.json", field="items")').make()
    assert project.rows("o") == items


STREAMED = {  # arguments of hub: its rows, or what is told
    'split="train", streaming=True, take=3': [{"x": n, "t": "é"} for n in range(3)],
    'split="train", streaming=True, take=2, columns=["t"]': [{"t": "é"}] * 2,
    'split="train", take=2, columns=["x"]': [{"x": 0}, {"x": 1}],
    'split="train", streaming=True, columns=["y"]': "datasets/org/rows@main has no column 'y'. Columns: x, t.",
    "streaming=True": "datasets/org/rows@main has the splits train, test: name one by split=.",
    'split="test", streaming=True': [{"x": 7, "t": None}],
}


@pytest.mark.slow
def test_rows_of_the_hub_are_streamed(project):
    """From the pinned commit, and no more files than the rows are in."""
    hub = FakeHub()
    try:
        files = {f"data/train-{at}.jsonl": "".join(f'{{"x": {n}, "t": "é"}}\n' for n in range(at * 5, at * 5 + 5)).encode() for at in range(4)}
        hub.push("datasets/org/rows", {**files, "data/test.jsonl": b'{"x": 7, "t": null}\n'})
        place = Place(project, hub)
        project.ddfile("\n".join(f'hub("s{at}", repo="org/rows", {arguments})' for at, arguments in enumerate(STREAMED)))
        place.run("s0")
        read = {line.rpartition("/")[2] for line in place.asked() if line.startswith("GET") and "resolve" in line and ".jsonl" in line}
        hub.push("datasets/org/rows", {"data/train-0.jsonl": b'{"x": "other"}\n'})
        result = place.run("-k", "-j", "1")
    finally:
        hub.close()
    for at, expected in enumerate(STREAMED.values()):
        if isinstance(expected, str):
            assert f"s{at}: " in result.output and expected in result.output
        else:
            assert project.rows(f"s{at}") == expected
    assert read == {"train-0.jsonl"}


def test_how_many_rows_to_take(project):
    assert project.ddfile(f'hub("h", repo="org/rows", revision="{"a" * 40}", take=0)').run("-n").output == "Ddfile:3: h: hub: take is the number of rows to read, at least 1, not 0.\n"
