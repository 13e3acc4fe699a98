"""The commands that look: list, why, graph, log, verify, and what a shell completes. None of them changes a target."""

import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from conftest import Project

from ddmake.cli.main import main
from ddmake.ddfile.workflow import COMMANDS, RESERVED

DDFILE = '''
    cfg = config(n=2, llm="echo")
    LIMIT = 3

    def clean(text):
        return text.strip().lower()

    @step("data/a", "in.jsonl", marks=["!"], about="What was read.")
    def a(file, *, marks):
        import json
        for line in file.read_text().splitlines():
            yield {"x": clean(json.loads(line)["x"])[:LIMIT] + marks[0], "n": 1}

    asked = transform("data/asked", a, llm=llm(cfg.llm), prompt=template("ask.j2"), column="y")

    @step({"short": "out/short.jsonl", "long": "out/long.jsonl"}, asked)
    def parts(rows):
        return {"short": rows, "long": rows}

    @step("published/x", asked, manual=True)
    def published(rows):
        return rows

    alias("paper", asked, parts)
'''


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The workflow, made once; tests work on copies."""
    project = Project(tmp_path_factory.mktemp("commands")).ddfile(DDFILE)
    project.write("templates/ask.j2", "Say {{ x }}\nnicely.\n")
    project.write("in.jsonl", '{"x": " One"}\n{"x": "Two "}\n')
    project.make()
    return project


@pytest.fixture
def flow(made, tmp_path):
    project = Project(shutil.copytree(made.root, tmp_path / "flow"))
    project.run("-q")  # else the copy's Ddfile is a stranger's
    return project


def edit(project, path, old, new):
    text = (project.root / path).read_text()
    assert old in text
    (project.root / path).write_text(text.replace(old, new))


def told(project, *args):
    return json.loads(project.make(*args, "--json").output)


# list


def test_list_shows_every_target_manual_ones_and_aliases_too(flow):
    lines = flow.make("list").output.splitlines()
    assert re.fullmatch(r" +target +holds +made +recipe +about", lines[0])
    assert re.fullmatch(r"fresh +data/a +2 rows +\d{4}-\d\d-\d\d \d\d:\d\d +a +What was read\.", lines[1])
    assert re.fullmatch(r"manual +published/x +published", lines[5])
    assert lines[-1].split() == ["alias", "paper", "data/asked,", "out/short.jsonl,", "out/long.jsonl"]


def test_list_says_what_lies_there_though_it_is_stale(flow):
    edit(flow, "Ddfile", "LIMIT = 3", "LIMIT = 2")
    found = {one["target"]: one for one in told(flow, "list")["targets"]}
    assert {path: one["verdict"] for path, one in found.items()} == {
        "data/a": "make", "data/asked": "maybe", "out/short.jsonl": "maybe", "out/long.jsonl": "maybe", "published/x": "manual"}
    assert (found["data/a"]["rows"], found["data/a"]["why"]) == (2, "LIMIT 3 -> 2")
    assert found["published/x"]["made"] is None


def test_the_whole_workflow_has_a_fingerprint_once_all_of_it_is_fresh(flow):
    whole = told(flow, "list")["fingerprint"]
    shown = flow.make("list", "--fingerprints").output
    assert whole in shown and told(flow, "list")["targets"][0]["fingerprint"][:12] in shown
    edit(flow, "Ddfile", "LIMIT = 3", "LIMIT = 2")
    assert told(flow, "list")["fingerprint"] is None
    assert "once all of it is made and fresh" in flow.make("list", "--fingerprints").output


def test_list_takes_targets_and_knobs(flow):
    assert [one["target"] for one in told(flow, "list", "data/a")["targets"]] == ["data/a"]
    assert told(flow, "list", "n=7")["knobs"]["n"] == 7
    assert flow.run("list", "data/x").code == 2


# why

EDITS = {  # name: (file, old, new, target, lines that are told)
    "template": ("templates/ask.j2", "nicely", "kindly", "data/asked", ["make data/asked: template ask.j2 changed", "template ask.j2",
                 "-nicely.", "+kindly."]),
    "helper": ("Ddfile", ".lower()", ".upper()", "data/a", ["code of clean", "-        return text.strip().lower()",
               "+        return text.strip().upper()"]),
    "constant": ("Ddfile", "LIMIT = 3", "LIMIT = 2", "data/a", ["LIMIT: 3 -> 2"]),
    "argument": ("Ddfile", '["!"]', '["."]', "data/a", ["marks[0]: ! -> ."]),
    "source": ("in.jsonl", "Two", "Six", "data/a", ["input file: contents changed (…)"]),
    "llm": ("Ddfile", 'llm(cfg.llm)', 'llm(cfg.llm, temperature=0.5)', "data/asked", ["llm: temperature: unset -> 0.5"]),
    "column": ("Ddfile", 'column="y"', 'column="z"', "data/asked", ["column: y -> z"]),
}


def squeezed(line):
    return " ".join(line.split())


@pytest.mark.parametrize("name", EDITS)
def test_why_shows_what_changed(flow, name):
    file, old, new, target, lines = EDITS[name]
    edit(flow, file, old, new)
    output = re.sub(r"\([0-9a-f]{8} -> [0-9a-f]{8}\)", "(…)", flow.make("why", target).output)
    assert set(map(squeezed, lines)) <= set(map(squeezed, output.splitlines()))


def test_why_follows_staleness_up_to_its_cause(flow):
    edit(flow, "Ddfile", "LIMIT = 3", "LIMIT = 2")
    lines = flow.make("why", "out/short.jsonl").output.splitlines()
    assert lines[:3] == ["maybe out/short.jsonl: behind data/asked", "  maybe data/asked: behind data/a",
                         "  make data/a: LIMIT 3 -> 2"]
    assert "LIMIT: 3 -> 2" in lines[3:]
    (one,) = told(flow, "why", "out/short.jsonl")
    assert [step["target"] for step in one["path"]] == ["data/asked", "data/a"]
    assert one["changes"] == [{"what": "LIMIT", "told": "3 -> 2", "diff": []}]


def test_why_of_what_is_behind_another_tells_what_changed_there_too(flow):
    edit(flow, "Ddfile", "LIMIT = 3", "LIMIT = 2")
    assert "itself" not in flow.make("why", "data/asked").output and told(flow, "why", "data/asked")[0]["own"] == []
    edit(flow, "templates/ask.j2", "nicely", "kindly")
    lines = [squeezed(line) for line in flow.make("why", "data/asked").output.splitlines()]
    assert lines[:4] == ["maybe data/asked: behind data/a", "make data/a: LIMIT 3 -> 2", "", "LIMIT: 3 -> 2"]
    assert lines[lines.index("data/asked itself:") + 1:][:2] == ["", "template ask.j2"] and "+kindly." in lines
    (one,) = told(flow, "why", "data/asked")
    assert [change["what"] for change in one["own"]] == ["template ask.j2"] and [change["what"] for change in one["changes"]] == ["LIMIT"]


def test_why_names_a_new_input_that_is_not_made_yet(flow):
    edit(flow, "Ddfile", '''transform("data/asked", a,''', '''transform("data/asked", csv("data/new", "new.csv"),''')
    (flow.root / "new.csv").write_text("x\n1\n")
    (change,) = told(flow, "why", "data/asked")[0]["own"]
    assert change["what"] == "input rows" and change["told"].endswith(" -> data/new, not made yet")


def test_why_tells_rows_and_columns_of_an_input_that_is_made_anew(flow):
    edit(flow, "Ddfile", '"n": 1}', '"m": 1}')
    (flow.root / "in.jsonl").write_text('{"x": "One"}\n')
    flow.make("data/a")
    (one,) = told(flow, "why", "data/asked")
    assert [change["told"] for change in one["changes"]] == ["2 -> 1 rows", "column x has other values", "column m is new",
                                                            "column n is gone"]


def test_why_of_a_fresh_target_says_what_it_was_made_of(flow):
    output = flow.make("why", "data/asked").output
    assert output.startswith("data/asked is fresh.\n  made ")
    for line in (r"from +data/a \([0-9a-f]{8}\)", r"llm +echo", r"prompt +template ask\.j2", r"holds +2 rows", r"fingerprint +\w{64}"):
        assert re.search(line, output), line


def test_why_of_what_waits_names_the_source(flow):
    (flow.root / "in.jsonl").unlink()
    lines = flow.make("why", "data/asked").output.splitlines()
    assert lines == ["waiting data/asked: behind data/a", "  waiting data/a: for in.jsonl"]


def test_why_names_undeclared_packages_that_have_changed_and_says_that_they_do_not_count(flow):
    # the record says that jinja2 was another then: its row is written anew, with the checksum that fits
    script = ("import json\nfrom pathlib import Path\nfrom ddmake.store import open_store, traces\nstore = open_store(Path('.'))\n"
              "trace, _ = store.traces.at('data/a')\nrecord = {**trace.record, 'packages': {'jinja2': '1.0'}}\ntext = json.dumps(record)\n"
              "store.traces.db.execute('UPDATE records SET record = ?, checksum = ? WHERE trace = ?', "
              "(text, traces._checksum(trace.id, text), trace.id))\n")
    subprocess.run([sys.executable, "-c", script], cwd=flow.root, check=True)
    output = flow.make("why", "data/a").output
    assert output.startswith("data/a is fresh.") and re.search(r"jinja2 1\.0 -> \S+, not declared: does not count", output)


def test_why_asks_for_a_target(flow):
    result = flow.run("why")
    assert (result.code, result.output) == (2, "Name the target that is meant: ddmake why TARGET.\n")


# graph


def test_graph_is_mermaid_by_default(flow):
    edit(flow, "templates/ask.j2", "nicely", "kindly")
    lines = [line.strip() for line in flow.make("graph").output.splitlines()]
    assert lines[0] == "flowchart LR"
    assert lines[1:6] == ['n0(["in.jsonl"]):::source', 'n1["data/a<br>a"]', 'n2["data/asked<br>transform · make"]:::stale',
                          'n3["out/short.jsonl<br>out/long.jsonl<br>parts · maybe"]:::stale', 'n4["published/x<br>published · manual"]']
    assert lines[6:10] == ["n0 --> n1", "n1 --> n2", "n2 --> n3", "n2 --> n4"]


def test_odd_names_are_escaped_in_every_format(project):
    name = 'a "b" <c> [d]; größe 日本 & \\e'
    project.ddfile(f'''
        @step({name!r})
        def odd():
            return [{{"x": 1}}]
    ''')
    mermaid = project.make("graph").output.splitlines()[1].strip()
    assert mermaid == ('n0["a #34;b#34; #60;c#62; #91;d#93;#59; größe 日本 #38; #92;e<br>odd · make"]:::stale')
    assert '"a \\"b\\" <c> [d]; größe 日本 & \\\\e\\nodd · make"' in project.make("graph", "--format", "dot").output
    texts = [node.text for node in ElementTree.fromstring(project.make("graph", "--format", "svg").output).iter() if node.text]
    assert name in texts


def test_svg_boxes_of_a_layer_do_not_overlap_and_arrows_go_right(project):
    project.ddfile('''
        def rows(*inputs):
            return [{"x": 1}]
        one = step(rows)
        @step
        def many(inputs):
            return [{"x": 1}]
        first = many("l0", ["in.txt"])
        layer = [many(f"l1/{i}", [first]) for i in range(7)]
        last = many("l2", layer)
        many("l3", [last, first])
    ''')
    project.make("graph", "--format", "svg", "-o", "graph.svg")
    root = ElementTree.parse(project.root / "graph.svg").getroot()
    svg = "{http://www.w3.org/2000/svg}"
    boxes = [tuple(float(rect.get(name)) for name in ("x", "y", "width", "height")) for rect in root.iter(f"{svg}rect")][1:]
    assert len(boxes) == 11
    for at, (x, y, width, height) in enumerate(boxes):
        assert not [b for b in boxes[at + 1:] if abs(b[0] - x) < width and b[1] < y + height and y < b[1] + b[3]]
    arrows = [path.get("d") for path in root.iter(f"{svg}path") if path.get("class") == "arrow"]
    assert len(arrows) == 17
    for path in arrows:
        numbers = [float(number) for number in re.findall(r"-?\d+\.\d", path)]
        assert numbers[0] < numbers[-2]


def test_graph_says_where_it_cannot_write(flow):
    assert re.match(r"-o \S+/no/g\.svg: No such file", flow.run("graph", "-o", "no/g.svg").output)


# log


def test_log_shows_results_and_the_last_jobs_log(flow):
    edit(flow, "Ddfile", "    import json", "    print('reading', LIMIT)\n    import json")
    flow.make("data/a")
    edit(flow, "Ddfile", "LIMIT = 3", "LIMIT = 2")
    flow.make("data/a")
    edit(flow, "Ddfile", "LIMIT = 2", "LIMIT = 3")
    flow.make("data/a")  # restored
    lines = flow.make("log", "data/a").output.splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ["4", "3", "2", "1"]
    assert lines[1].endswith("here, restored")
    assert told(flow, "log", "data/a")["results"][1]["holds"] == "2 rows"
    assert flow.make("log", "data/a", "--result", "3").output.splitlines()[-1] == "reading 2"
    assert flow.make("log", "data/a", "--result", "2").output.splitlines()[-1] == "reading 3"
    assert flow.run("log", "data/a", "--result", "9").output == "data/a has no result 9. It has 1 to 4.\n"


def test_log_of_a_job_that_failed(flow):
    edit(flow, "Ddfile", "    import json", "    print('so far')\n    1 / 0")
    assert flow.run("data/a").code == 1
    assert "so far" in flow.make("log", "data/a").output


def test_log_without_a_target_lists_the_last_runs(flow):
    assert re.search(r"^\d{4}-\d\d-\d\d \d\d:\d\d +Ddfile +n=2 llm=echo$", flow.make("log").output, re.MULTILINE)
    assert [run["knobs"] for run in told(flow, "log")] == [{"n": 2, "llm": "echo"}]


def test_log_of_what_was_never_made(flow):
    assert flow.make("log", "published/x").output == "published/x was never made. Do: ddmake published/x\n"


# verify


def test_verify_reads_everything_and_finds_nothing_wrong(flow):
    output = flow.make("verify").output
    assert re.match(r"read 4 outputs, \d+ kept files, 3 records, 2 calls in ", output) and output.endswith("All is as recorded.\n")


def test_what_is_stale_is_told_and_is_no_damage(flow):
    edit(flow, "Ddfile", "LIMIT = 3", "LIMIT = 2")
    output = flow.make("verify").output
    assert re.search(r"^  make +data/a +LIMIT 3 -> 2$", output, re.MULTILINE) and "published" not in output


def keep_stat(path, change):
    """Change a file's bytes and give it its old size and mtime back."""
    stat, data = path.stat(), bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def flip(data):
    data[len(data) // 2] ^= 1


def damage_object(flow):
    file = next((flow.root / ".ddmake/objects").glob("*/*"))
    flip_file = file.read_bytes()
    file.write_bytes(bytes([flip_file[0] ^ 1]) + flip_file[1:])
    return f".ddmake/objects/{file.parent.name}/{file.name} is damaged"


def damage_row(flow, database, statement):
    import sqlite3

    db = sqlite3.connect(flow.root / ".ddmake" / database)
    db.execute(statement)
    db.commit()
    db.close()
    return ".ddmake/" + database


def add_file(flow):
    (flow.root / "data/a/extra.txt").write_text("x")
    return "data/a/extra.txt was added"


def damage_output(flow):
    keep_stat(flow.root / "out/short.jsonl", flip)
    return "out/short.jsonl isn't what was made"


def delete_output(flow):
    (flow.root / "out/short.jsonl").unlink()
    return "out/short.jsonl is gone"


DAMAGES = {
    "a flipped bit of an output": damage_output,
    "a file more in an output": add_file,
    "an output that is gone": delete_output,
    "a flipped bit of a kept file": damage_object,
    "a trace": lambda flow: damage_row(flow, "traces.db", "UPDATE traces SET outputs = replace(outputs, 'data/a', 'data/b')"),
    "a record": lambda flow: damage_row(flow, "traces.db", "UPDATE records SET record = replace(record, 'seconds', 'secunds')"),
    "a call": lambda flow: damage_row(flow, "calls.db", "UPDATE calls SET answer = 'nonsense' WHERE id = 1"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_verify_finds_what_is_not_as_recorded(flow, name):
    expected = DAMAGES[name](flow)
    result = flow.run("verify")
    assert result.code == 1 and expected in result.output and "not as recorded." in result.output
    assert json.loads(flow.run("verify", "--json").output)["wrong"]


def test_verify_trusts_no_stat(flow):
    keep_stat(flow.root / "out/short.jsonl", flip)
    stat = (flow.root / "out/short.jsonl").stat()
    damage_row(flow, "traces.db", f"UPDATE files SET ctime_ns = {stat.st_ctime_ns}, inode = {stat.st_ino}, mtime_ns = "
               f"{stat.st_mtime_ns}, noted_ns = {stat.st_ctime_ns + 10**9} WHERE path = 'out/short.jsonl'")
    assert flow.make("-n", "-v").verdicts()["out/short.jsonl"] == "fresh"  # as after an error of the disk's
    assert "out/short.jsonl isn't what was made" in flow.run("verify").output
    assert flow.run("-n").verdicts()["out/short.jsonl"] == "edited"


def test_verify_of_one_target_leaves_the_others_alone(flow):
    damage_output(flow)
    assert flow.run("verify", "data/a").code == 0
    assert flow.run("verify", "out/short.jsonl").code == 1


# completion


def complete(project, line):
    words = line.split(" ")
    env = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1), "_DDMAKE_COMPLETE": "bash_complete"}
    code = "import sys; from ddmake.cli.main import main; main(prog_name='ddmake')"
    done = subprocess.run([sys.executable, "-c", code], cwd=project.root, capture_output=True, text=True, env={**os.environ, **env})
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


COMPLETIONS = {
    "ddmake da": ["data/a", "data/asked"],
    "ddmake n": ["n=", "n=2"],
    "ddmake pa": ["pack", "paper"],
    "ddmake why out": ["out/short.jsonl", "out/long.jsonl"],
    "ddmake gr": ["graph"],
    "ddmake data/a gr": [],
}


def test_shells_complete_targets_aliases_knobs_and_commands(flow):
    assert {line: complete(flow, line) for line in COMPLETIONS} == COMPLETIONS


def test_a_broken_ddfile_completes_commands_in_silence(project):
    project.ddfile("print('noise')\n1 / 0")
    assert complete(project, "ddmake li") == ["list", "lint"]
    assert complete(project, "ddmake why da") == []


# docs and names


def test_the_page_on_commands_names_every_option(project):
    page = (Path(__file__).parent.parent / "docs" / "commands.md").read_text()
    for command in ("list", "why", "graph", "log", "verify", "clean", "gc", "lint"):
        assert f"## {command}\n" in page
        for option in re.findall(r"^  (?:-\w, )?(--[\w-]+)", project.run(command, "--help").output, re.MULTILINE):
            assert option in ("--file", "--help", "--output") or f"`{option}" in page, option


@pytest.mark.parametrize("words", [("--format", "dot", "graph"), ("-f", "Ddfile", "list"), ("--older-than", "3d", "gc")])
def test_options_may_stand_before_the_command(project, words):
    assert project.ddfile("").run(*words).code == 0


def test_a_command_wins_over_a_target_of_its_name(project):
    project.ddfile('''
        @step("list")
        def rows():
            return [{"x": 1}]
    ''')
    assert "target" in project.make("list").output
    assert re.search(r"^make +list", project.make("-n", "./list").output, re.MULTILINE)
    project.ddfile('alias("log")')
    assert "an alias can't be named 'log', which is a command." in project.run("-n").output


def test_the_help_shows_every_option_of_make_once(project):
    helped = project.run("--help").output
    own = [option for parameter in main.commands["make"].params for option in parameter.opts if option.startswith("--")]
    assert {option: len(re.findall(rf"(?:^  |, ){option} ", helped, re.MULTILINE)) for option in own} == dict.fromkeys(own, 1)


def test_no_alias_can_be_named_like_a_command():
    assert main.commands.keys() == {*COMMANDS, "job", "worker"}
    assert {"job", "worker"} <= set(RESERVED)


def test_columns_are_aligned_whatever_the_letters(project):
    project.ddfile("for name in ('a', '日本', 'e\\u0301'):\n    @step(f'{name}.txt')\n    def a(output):\n        pass\n")
    lines = project.make("-n").output.splitlines()[:-1]
    assert lines == ["      target    why", "make  a.txt     never made", "make  日本.txt  never made", "make  e\u0301.txt     never made"]


def test_one_long_path_does_not_push_the_others_reasons_away(project):
    long = "/".join(["a-long-name-of-a-folder"] * 5)
    project.ddfile(f"for name in ('a', '{long}'):\n    @step(f'{{name}}.txt')\n    def a(output):\n        pass\n")
    assert project.make("-n").output.splitlines()[1:3] == ["make  a.txt   never made", f"make  {long}.txt  never made"]


def test_a_rule_of_many_outputs_names_the_first_ones(project):
    project.ddfile("@step({x: x for x in 'abcdefghij'})\ndef many():\n    pass\n")
    assert project.make("-n").output.splitlines()[1] == "make  a, b, c, d, e, f, g, h and 2 more  never made"
