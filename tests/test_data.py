"""Recipes over rows without a model, views, and the columns that recipes need: checked when a job starts, at the latest."""

import csv
import json
import subprocess
import sys

import pytest
from conftest import Project
from datasets import Dataset, load_from_disk
from hypothesis import given
from hypothesis import strategies as st

from ddmake.artifacts.views import columns_read
from ddmake.rules import data

ROWS = 'r = jsonl("r", "in.jsonl")\n'

LATE = {  # a consumer of rows that aren't there when it is planned, and what is told when it starts
    'transform("o", r, llm=llm("echo"), prompt="{{ txt }}")': "o: Ddfile:4: the prompt reads 'txt'. There are: text, n. Did you mean 'text'?",
    'transform("o", r.rename(text="t"), llm=llm("echo"), prompt="{{ text }}")': "o: Ddfile:4: the prompt reads 'text'. There are: t, n.",
    'split("o", r, stratify="m")': "o/train: Ddfile:4: there is no column 'm' to stratify by. There are: text, n.",
    'concat("o", [r, r.remove("n")])': "o: Ddfile:4: there is no column 'n' in part 1, as in 0. There are: text.",
    'concat("o", {"a": r.select("n"), "b": r})': "o: Ddfile:4: there is no column 'text' in part 'a', as in 'b'. There are: n.",
    'concat("o", [r], source="text")': "o: Ddfile:4: concat adds a column 'text', and there is one already: .rename() it.",
    'zipped("o", [r, r])': "o: Ddfile:4: zipped adds a column 'text', and there is one already: .rename() it.",
    'copy("o", r.select("txt"))': "o: Ddfile:4: .select(): r has no column 'txt'. It has: text, n. Did you mean 'text'?",
    'copy("o", r.remove("txt"))': "o: Ddfile:4: .remove(): r has no column 'txt'. It has: text, n. Did you mean 'text'?",
    'copy("o", r.sort("txt"))': "o: Ddfile:4: .sort(): r has no column 'txt'. It has: text, n. Did you mean 'text'?",
    'copy("o", r.explode("txt"))': "o: Ddfile:4: .explode(): r has no column 'txt'. It has: text, n. Did you mean 'text'?",
    'copy("o", r.rename(n="text"))': "o: Ddfile:4: .rename(): r would have two columns 'text'.",
    'copy("o", r.select("n", "n"))': "o: Ddfile:4: .select(): r: a column is named twice: n, n.",
    'copy("o", r.remove("n", "text"))': "o: Ddfile:4: .remove(): it leaves no column of r. Keep one at least; r has: text, n.",
}
STARTED = {  # what can be told only then
    'copy("o", r.map(lambda row: {"m": 1}).select("mm"))': "o: Ddfile:4: .select(): r has no column 'mm'. It has: text, n, m.",
    'copy("o", r.filter(lambda row: row["txt"]))': "o: a view of r failed (Ddfile:4): KeyError: 'txt'. Columns: text, n. Did you mean 'text'?",
    'copy("o", r.pick(0, 3))': "o: Ddfile:4: .pick(): there is no row 3; there are 3, counted from 0.",
    'copy("o", r.map(lambda row: {"l": [1]}).sort("l"))': "o: Ddfile:4: .sort(): column 'l' holds list",
    'copy("o", r.map(lambda row: "x"))': "o: Ddfile:4: .map(): its function returned a str, and a dict of columns is needed.",
    'copy("o", r.explode("text"))': "o: Ddfile:4: .explode(): column 'text' holds string, and lists are needed.",
    'copy("o", r.explode("n"))': "o: Ddfile:4: .explode(): column 'n' holds int64, and lists are needed.",
}


@pytest.fixture(scope="module")
def late(tmp_path_factory):
    """What all consumers were told in one run, and in the plan after it."""
    project = Project(tmp_path_factory.mktemp("late"))
    project.write("in.jsonl", "".join(f'{{"text": "{n}", "n": {n}}}\n' for n in range(3)))
    told, planned = {}, {}
    lines = [call.replace('"o"', f'"o{number}"', 1) for number, call in enumerate([*LATE, *STARTED])]
    blank = ["pass"] * len(lines)
    project.ddfile(ROWS + "".join(f"if True: {line}\n" for line in lines))
    output = project.run("-k", "-j", "1").output
    for number, call in enumerate([*LATE, *STARTED]):
        told[call] = next(line for line in output.splitlines() if line.startswith((f"o{number}: ", f"o{number}/train: ")))
        if call in LATE:
            project.ddfile(ROWS + "\n".join([*blank[:number], lines[number]]))
            planned[call] = project.run("-n").output
    return told, planned


@pytest.mark.parametrize("call", [*LATE, *STARTED])
def test_columns_are_checked_when_a_job_starts(late, call):
    number = [*LATE, *STARTED].index(call)
    expected = {**LATE, **STARTED}[call].replace("Ddfile:4", f"Ddfile:{4 + number}")
    expected = expected.replace("o/train", f"o{number}/train").replace("o: ", f"o{number}: ")
    assert late[0][call].startswith(expected)


@pytest.mark.parametrize("call", LATE)
def test_the_sentence_is_that_of_the_plan(late, call):
    target, _, told = late[0][call].partition(": ")
    assert told == late[1][call].strip().replace(f" {target}: ", " ", 1), "a job's sentence begins with its target already"


def test_a_view_keeps_a_column_at_least(project):
    result = project.ddfile(ROWS + 'copy("o", r.select())').run("-n")
    assert (result.code, result.output.strip()) == (2, "Ddfile:4: .select() keeps the columns that it names, and names none. "
                                                       "Name one at least.")


VIEWS = {  # a view of x = 0..5, y = "a" or null, l = x % 3 values: what it leaves
    'r.sort("y").select("x")': [0, 2, 4, 1, 3, 5],
    'r.sort("x", reverse=True).select("x")': [5, 4, 3, 2, 1, 0],
    'r.sort("y", reverse=True).select("x")': [0, 2, 4, 1, 3, 5],
    'r.shuffle(1).sort("x").select("x")': [0, 1, 2, 3, 4, 5],
    'r.reverse().take(2).select("x")': [5, 4],
    'r.pick(4, 0, 4).select("x")': [4, 0, 4],
    'r.pick().select("x")': [],
    'r.take(2).remove("y", "l")': [0, 1],
    'r.skip(1).rename(x="z").remove("y").reverse().select("z").take(1)': [5],
    'r.explode("l").filter(lambda row: row["l"]).select("x")': [2, 5],
    'r.filter(lambda row: row["x"] > 3).map(lambda row: {"x": row["x"] * 2}).sort("x", reverse=True).select("x")': [10, 8],
    'r.filter(lambda row: False).select("x")': [],
    'r.filter(lambda row: False).reverse().sort("x").shuffle(1).explode("l").skip(3).take(2).filter(lambda row: True).map(lambda row: row)': [],
    'r.skip(9).shard(0, of=2)': [], 'r.shuffle(1).skip(9)': [],
}


def test_views(project):
    project.write("in.jsonl", "".join(json.dumps({"x": x, "y": None if x % 2 else "a", "l": list(range(x % 3))}) + "\n" for x in range(6)))
    project.ddfile(ROWS + "".join(f'copy("v/{number}", {view})\n' for number, view in enumerate(VIEWS))).make()
    for number, view in enumerate(VIEWS):
        assert [next(iter(row.values())) for row in project.rows(f"v/{number}")] == VIEWS[view], view
    assert not list((project.root / ".ddmake" / "scratch").iterdir()), "what views wrote is gone"
    assert {path.name for path in (project.root / "r").iterdir()} == {"data-00000-of-00001.arrow", "dataset_info.json", "state.json"}


MAPPED = {  # what .map() makes of rows i = 0..1499: a column of it, the type, and the last value
    '{"x": "late" if row["i"] > 1200 else None}': ("x", "string", "late"),
    '{"x": row["i"] + 0.5 if row["i"] > 1200 else row["i"]}': ("x", "float64", 1499.5),
    '{"x": {"b": 2} if row["i"] > 1200 else {"a": 1}}': ("x", None, {"a": None, "b": 2}),
    '{"i": str(row["i"])}': ("i", "string", "1499"),
    '{"f": row["f"] > 3}': ("f", "bool", True),
    '{"label": row["label"]}': ("label", "int64", 1),
    '{"label": "yes" if row["label"] else "no"}': ("label", "string", "yes"),
    'row.update(x=2**63 - 1) or row': ("x", "int64", 2**63 - 1),
    'None': ("i", "int64", 1499),
}


def test_functions_make_values_of_any_type(project):
    """A type is one for all rows, also where the first thousand hold nothing; a column that is replaced has its new values' type."""
    from datasets import ClassLabel, Features, List, Value

    kinds = Features({"i": Value("int64"), "f": Value("float64"), "label": ClassLabel(names=["no", "yes"]), "l": List(Value("int8"))})
    columns = {"i": range(1500), "f": [float(i) for i in range(1500)], "label": [i % 2 for i in range(1500)], "l": [[]] * 1500}
    Dataset.from_dict(columns, features=kinds).save_to_disk(project.root / "in")
    views = [*(f"r.map(lambda row: {made})" for made in MAPPED), 'r.explode("l")', 'r.take(0).explode("l")']
    project.ddfile('r = saved("r", "in")\n' + "".join(f'copy("v/{number}", {view})\n' for number, view in enumerate(views))).make()
    found = [load_from_disk(str(project.root / f"v/{number}")) for number in range(len(views))]
    for (made, (name, kind, value)), rows in zip(MAPPED.items(), found):
        assert (rows[-1][name], getattr(rows.features[name], "dtype", None)) == (value, kind), made
        assert (rows.features["label"] == kinds["label"]) == (value != "yes"), made
    for rows in found[-2:]:
        assert rows.features == Features({**kinds, "l": Value("int8")})


READ = [  # steps over columns x, y, z, and those that a reader can depend on
    ([("sort", ("x", False)), ("select", ("y",))], "xy"), ([("select", ("y",)), ("sort", ("y", False))], "y"),
    ([("remove", ("x",))], "yz"), ([("sort", ("x", False)), ("remove", ("x",))], "xyz"), ([("reverse", ()), ("remove", ("x", "y"))], "z"),
    ([("rename", ({"x": "a"},)), ("remove", ("a",))], "yz"), ([("remove", ("x",)), ("rename", ({"y": "x"},)), ("select", ("x",))], "y"),
    ([("filter", (None,)), ("remove", ("x",))], "xyz"), ([("remove", ("x",)), ("filter", (None,)), ("select", ("y",))], "yz"),
    ([("select", ("x", "y")), ("remove", ("y",))], "x"), ([("remove", ("x",)), ("map", (None,)), ("remove", ("y",))], "yz"),
    ([("explode", ("z",)), ("remove", ("z", "x"))], "yz"), ([("pick", (1,))], "xyz"),
]


@pytest.mark.parametrize("steps, columns", READ, ids=str)
def test_a_view_depends_on_the_columns_that_can_be_read(steps, columns):
    read = columns_read(steps)
    assert "".join(name for name in "xyz" if read is None or name in read) == columns


def test_a_column_that_was_removed_counts_for_nothing(project):
    project.write("in.jsonl", '{"x": 1, "y": 1, "z": 1}\n')
    project.ddfile(ROWS + 'copy("a", r.remove("y"))\ncopy("b", r.sort("y").remove("y"))').make()
    project.write("in.jsonl", '{"x": 1, "y": 2, "z": 1}\n')
    project.make("r")
    assert project.run("-n", "-v").verdicts() == {"r": "fresh", "a": "fresh", "b": "make"}


PARTS = """
    @step("r")
    def r():
        for i in range(100):
            yield {"x": i, "label": "rare" if i == 7 else "ab"[i % 4 == 0], "author": f"w{i * i % 17}", "l": [i]}

    whole = split("whole", r, validation=20, test=0.1)
    split("half", r, validation=0.2, test=0.2, stratify="label")
    split("same", r.map(lambda row: row), validation=0.2, test=0.2, stratify="label")
    split("groups", r, validation=0.2, test=10, group="author")
"""


def test_splits(project):
    project.ddfile(PARTS).make()
    rows = {part: project.rows(part) for part in ("whole/train", "whole/validation", "whole/test", "half/train", "half/validation", "half/test",
                                                 "groups/train", "groups/validation", "groups/test")}
    assert {part: len(found) for part, found in rows.items() if part.startswith("whole")} == {"whole/train": 70, "whole/validation": 20, "whole/test": 10}
    for kind in ("whole", "half", "groups"):
        assert sorted(row["x"] for part, found in rows.items() if part.startswith(kind) for row in found) == list(range(100))
    counts = {part: [sum(row["label"] == label for row in rows[f"half/{part}"]) for label in ("a", "b", "rare")] for part in ("train", "validation", "test")}
    assert counts["validation"] == counts["test"] == [15, 5, 0] and counts["train"] == [44, 15, 1]
    assert [row["x"] for row in project.rows("same/test")] == [row["x"] for row in rows["half/test"]]
    assert [row["x"] for row in rows["half/test"]] != sorted(row["x"] for row in rows["half/test"])
    authors = [{row["author"] for row in rows[f"groups/{part}"]} for part in ("train", "validation", "test")]
    assert not authors[0] & authors[1] and not authors[0] & authors[2] and not authors[1] & authors[2] and all(authors)
    assert 10 <= len(rows["groups/validation"]) <= 20 and len(rows["groups/test"]) <= 10


SPLITS = {
    'split("o", r, validation=0.5, test=0.5)': "Ddfile:3: split: validation and test take 1 of the rows; nothing is left to train on.",
    'split("o", r, validation=1.0)': "Ddfile:3: split: validation is a share of the rows, below 1, or a whole number of them, not 1.0.",
    'split("o", r, validation=-1)': "not -1.", 'split("o", r, group="x", stratify="x")': "split: give either stratify= or group=",
    'split("o", r, validation=3)': "split: 3 rows are too few for train, validation, each of which needs one or more. Give it more rows",
    'split("o", r.take(1))': "split: 1 row is too few for train, validation, each",
    'split("o", r, validation=2, stratify="x")': "3 rows of 3 classes are too few for validation to have 2",
    'split("o", r, validation=1, group="same")': "1 group is too few for 2 parts. Group by another column",
    'split("o", r, validation=1, group="l")': "column 'l' holds list",
    'zipped("o", [r, r.rename(x="y", same="z", l="m").take(2)])': "zipped: part 1 has 2 rows, and 0 has 3.",
    'concat("o", [r.select("x"), r.select("same").rename(same="x")])': "concat: part 1 doesn't agree with part 0",
    'concat("o", r)': 'concat takes several datasets, as in concat("…", [a, b]).',
}


@pytest.mark.slow
def test_what_is_told_of_parts_that_do_not_fit(project):
    project.write("in.jsonl", "".join(f'{{"x": {n}, "same": "s", "l": [1]}}\n' for n in range(3)))
    for call, told in SPLITS.items():
        result = project.ddfile(f'r = jsonl("r", "in.jsonl"); {call}').run()
        assert result.code and told in result.output, (call, result.output)


@given(st.lists(st.integers(0, 5), min_size=4, max_size=60), st.integers(1, 20), st.integers(1, 20))
def test_a_stratified_split_has_its_sizes_and_each_class_trains(classes, test, validation):
    spare = len(classes) - len(set(classes))
    if test + validation > spare:
        return
    taken = data._stratified(classes, {"test": test, "validation": validation})
    rest = set(range(len(classes))) - {*taken["test"], *taken["validation"]}
    assert (len(taken["test"]), len(taken["validation"])) == (test, validation)
    assert len(rest) == len(classes) - test - validation, "no row is in two parts"
    assert {classes[number] for number in rest} == set(classes)


def test_rows_put_together(project):
    project.write("in.jsonl", '{"x": 1, "y": "a"}\n{"x": 2, "y": null}\n').parent.joinpath("b.csv").write_text("y,x\nb,2.5\n")
    project.ddfile(ROWS + """
b = csv("b", "b.csv")
concat("one", [r, b.select("x", "y")])
concat("named", {"first": r, "second": b}, source="from")
concat("numbered", [r.take(1), r.filter(lambda row: False), r.skip(1)], source="part")
zipped("beside", [r.shuffle(1).sort("x"), r.rename(x="z", y="w").reverse()])
concat("nothing", [r.take(0), r.skip(9)])
zipped("none", {"a": r.take(0), "b": r.take(0).rename(x="z", y="w")})
""").make()
    assert project.rows("one") == [{"x": 1.0, "y": "a"}, {"x": 2.0, "y": None}, {"x": 2.5, "y": "b"}]
    assert [row["from"] for row in project.rows("named")] == ["first", "first", "second"]
    assert project.rows("numbered") == [{"x": 1, "y": "a", "part": 0}, {"x": 2, "y": None, "part": 2}]
    assert project.rows("beside") == [{"x": 1, "y": "a", "z": 2, "w": None}, {"x": 2, "y": None, "z": 1, "w": "a"}]
    for path, columns in (("nothing", ["x", "y"]), ("none", ["x", "y", "z", "w"])):
        found = load_from_disk(str(project.root / path))
        assert (len(found), found.column_names, found.features["x"].dtype) == (0, columns, "int64")


def test_copies_and_files(project):
    project.write("in.jsonl", '{"x": 1, "y": "é\\n"}\n{"x": 2, "y": null}\n')
    project.ddfile(ROWS + "".join(f'copy("o{suffix}", r.reverse())\ncopy("none{suffix}", r.take(0))\n' for suffix in (".jsonl", ".json", ".csv", ".parquet", ""))
                   + 'json("back/json", "o.json")\ncsv("back/csv", "o.csv")\nparquet("back/parquet", "o.parquet")\njsonl("back/jsonl", "o.jsonl")\n').make()
    expected = [{"x": 2, "y": None}, {"x": 1, "y": "é\n"}]
    assert json.loads((project.root / "o.json").read_text()) == project.rows("o") == project.lines("o.jsonl") == expected
    assert all(project.rows(f"back/{kind}") == expected for kind in ("json", "csv", "parquet", "jsonl"))
    assert json.loads((project.root / "none.json").read_text()) == project.rows("none") == project.lines("none.jsonl") == []
    assert list(csv.reader((project.root / "none.csv").open())) == [["x", "y"]]


MEASURE = """
import sys, threading, time
from pathlib import Path
from ddmake.artifacts import views
from ddmake.artifacts.rows import write_dataset
import datasets
datasets.disable_caching(); datasets.disable_progress_bars()

def held():  # kB that this process alone holds; pages of files that it has mapped don't count
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))

peak = before = 0
def watch():
    global peak
    while True:
        peak = max(peak, held())
        time.sleep(0.005)

STEPS = [("filter", (lambda row: row["n"] >= 0,)), ("map", (lambda row: {"m": row["n"] + 1},)), ("explode", ("l",)), ("shuffle", (1,)), ("sort", ("n", True)), ("reverse", ())]
def seen(path, to):
    number = iter(range(99))
    write_dataset(views.apply(datasets.load_from_disk(path), STEPS, path, lambda: Path(f"{to}-{next(number)}.arrow").absolute()), Path(to))

seen("small", "warm")
before = held()
threading.Thread(target=watch, daemon=True).start()
seen("large", "out")
print((max(peak, held()) - before) // 1000)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells how much memory a process holds")
def test_views_do_not_hold_rows_in_memory(tmp_path):
    from ddmake.artifacts.rows import write

    for name, n in (("small", 200), ("large", 20_000)):
        write(({"n": i, "t": f"{i:8000}", "l": [1]} for i in range(n)), tmp_path / name)
    done = subprocess.run([sys.executable, "-c", MEASURE], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 100, "MB, of rows of 160 MB"
