"""`pack` and `unpack`: elsewhere everything is fresh, and a bundle that isn't what it says writes nothing and runs nothing."""

import hashlib
import io
import json
import os
import re
import shutil
import tarfile
from pathlib import Path

import pytest
from conftest import Project

from ddmake.sharing import packing, unpacking

DDFILE = '''
    from numbers_of import double
    cfg = config(n=2)
    rows = jsonl("data/rows", "in/rows.jsonl")
    said = transform("data/said", rows, llm=llm("echo"), column="y", prompt=template("say.j2"))

    @step("data/doubled", said.take(cfg.n), "table")
    def doubled(rows, table):
        """Double it."""
        from more.inner import length
        names = sorted(file.name for file in table.iterdir())
        return [{"z": double(row["y"]), "n": length(row["y"]), "names": names} for row in rows]

    parts = split("parts", rows, validation=0.5)
'''
LATER = '''
    @step("late", doubled)
    def late(rows):
        return [{"z": row["z"] + "!"} for row in rows]

    again = transform("again", rows, llm=llm("echo"), column="w", prompt=template("say.j2"))
'''


def written(project, text=DDFILE):
    """Write the project's files."""
    project.ddfile(text)
    project.write("numbers_of.py", "def double(text):\n    return text * 2\n")
    project.write("more/__init__.py", "")
    project.write("more/inner.py", "def length(text):\n    return len(text)\n")
    project.write("templates/say.j2", "Say {{ x }}.")
    project.write("in/rows.jsonl", "".join(f'{{"x": "v{number}"}}\n' for number in range(4)))
    project.write("table/a.txt", "one")
    project.write("table/deep/b.txt", "two")
    return project


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """Give a folder with a project that is made, and its bundle, both to be copied."""
    folder = tmp_path_factory.mktemp("once")
    (folder / "here").mkdir()
    project = written(Project(folder / "here"))
    project.make()
    project.make("pack", "-o", "../all.tar")
    return folder


@pytest.fixture
def made(once, tmp_path):
    """Give a project that is made, in a folder of its own."""
    shutil.copytree(once / "here", tmp_path / "here", symlinks=True)
    return Project(tmp_path / "here")


@pytest.fixture
def bundle(once, made):
    return Path(shutil.copy2(once / "all.tar", made.root.parent))


def there(bundle, *options, name="there"):
    """Unpack a bundle into a new folder beside it."""
    (bundle.parent / name).mkdir(exist_ok=True)
    project = Project(bundle.parent / name)
    project.make("unpack", str(bundle), *options)
    return project


def test_elsewhere_everything_is_fresh_and_a_rule_at_the_end_costs_only_that_rule(made, bundle):
    result = there(bundle)
    assert set(result.make("-n", "-v").verdicts().values()) == {"fresh"}
    assert result.run("-q").code == 0 and "All is as recorded." in result.make("verify").output
    assert result.rows("data/doubled") == made.rows("data/doubled")
    result.ddfile(DDFILE + LATER)
    assert result.make("-n").verdicts() == {"late": "make", "again": "make"}
    done = result.make().output
    assert re.search(r"^made 2, fresh 4", done, re.MULTILINE) and "0 sent, 4 cached" in done


def test_bundles_of_the_same_are_the_same_bytes_also_of_what_was_unpacked(made, bundle):
    made.make("pack", "-o", "../again.tar")
    there(bundle).make("pack", "-o", "../third.tar")
    first, again, third = (bundle.with_name(name).read_bytes() for name in ("all.tar", "again.tar", "third.tar"))
    assert first == again == third


def test_a_bundle_is_a_tar_of_plain_files_and_may_be_in_a_bundle(made, bundle):
    with tarfile.open(bundle) as tar:
        assert {member.type for member in tar} == {tarfile.REGTYPE}
        assert tar.extractfile("project/more/inner.py").read() == (made.root / "more/inner.py").read_bytes()
    outer = Project(bundle.parent / "outer")
    outer.root.mkdir()
    (outer.root / "inner.tar").write_bytes(bundle.read_bytes())
    outer.ddfile('@step("size", "inner.tar")\ndef size(file):\n    return [{"n": file.stat().st_size}]')
    outer.make()
    outer.make("pack", "-o", "../outer.tar")
    result = there(outer.root.parent / "outer.tar", name="inside")
    assert (result.root / "inner.tar").read_bytes() == bundle.read_bytes() and result.run("-q").code == 0


def test_only_what_chosen_targets_need_is_packed(made):
    told = made.make("pack", "-n", "parts/train", "data/rows").output
    assert re.findall(r"^  target +(\S+)", told, re.MULTILINE) == ["data/rows", "parts/train", "parts/validation"]
    assert "calls" not in told and "table/a.txt" not in told and not list(made.root.parent.glob("*.tar"))
    assert re.search(r"records +4 calls", made.make("pack", "-n", "data/doubled").output)


def test_knobs_come_along(tmp_path):
    (tmp_path / "here").mkdir()
    project = written(Project(tmp_path / "here"))
    project.make("n=3")
    project.make("pack", "n=3", "-o", "../all.tar")
    result = there(tmp_path / "all.tar")
    assert result.run("-q").code == 1 and result.run("-q", "--last").code == 0


def test_what_pyproject_says_of_ddmake_comes_along_and_nothing_else_of_it(made):
    made.write("pyproject.toml", '[project]\nname = "mine"\n\n[tool.ddmake.store]\nmax_size = "1GB"  # enough\n\n[tool.ruff]\nfix = true\n')
    made.make("pack", "-o", "../all.tar")
    assert (there(made.root.parent / "all.tar").root / "pyproject.toml").read_text() == \
        '[tool.ddmake.store]\nmax_size = "1GB"  # enough\n'


def test_failed_rows_and_the_chain_behind_a_result_come_along(tmp_path):
    (tmp_path / "here").mkdir()
    project = Project(tmp_path / "here")
    project.ddfile('''
        rows = jsonl("rows", "in.jsonl")

        def parse(text, row):
            if text == "b":
                raise ValueError("it is b")
            return text
        said = transform("said", rows, llm=llm("echo"), column="y", prompt="{{ x }}", parse=parse)
    ''')
    project.write("in.jsonl", '{"x": "a"}\n{"x": "b"}\n')
    project.make()
    project.make("pack", "-o", "../all.tar")
    result = there(tmp_path / "all.tar")
    assert "it is b" in result.make("show", "said", "--failed").output
    assert json.loads(result.make("cards", "--json", "said").output) == json.loads(project.make("cards", "--json", "said").output)


# what is left out


def test_sources_may_be_left_out_and_are_then_told_by_their_digest(made, monkeypatch):
    monkeypatch.setattr(packing, "LARGE", 30)
    told = made.make("pack", "-o", "../all.tar").output
    assert "in/rows.jsonl: large; --sources takes it in: its digest alone is packed" in told
    result = there(made.root.parent / "all.tar")
    assert not (result.root / "in").exists() and (result.root / "table/deep/b.txt").exists()
    assert result.make("-n").verdicts()["data/rows"] == "waiting"
    (result.root / "in").mkdir()
    (result.root / "in/rows.jsonl").write_bytes(b"{}\n")
    bundle = str(made.root.parent / "all.tar")
    assert "what lies there is something else: what reads it would be made again" in result.make("unpack", bundle).output
    (result.root / "in/rows.jsonl").write_bytes((made.root / "in/rows.jsonl").read_bytes())
    assert "it lies there, and is the same" in result.make("unpack", bundle).output
    assert result.run("-q").code == 0
    made.make("pack", "--sources", "-o", "../all.tar")
    assert (there(made.root.parent / "all.tar", name="whole").root / "in/rows.jsonl").exists()
    made.make("pack", "--no-sources", "-o", "../all.tar")
    shown = there(made.root.parent / "all.tar", name="bare")
    assert not (shown.root / "table").exists()


def test_calls_may_be_left_out(made):
    made.make("pack", "--no-calls", "-o", "../all.tar")
    result = there(made.root.parent / "all.tar")
    assert result.run("-q").code == 0 and "Say v0." not in result.run("calls").output


def test_a_source_outside_of_the_project_is_told_by_its_digest_and_a_file_of_the_workflow_there_is_refused(made):
    (made.root.parent / "far.jsonl").write_text('{"x": 1}\n')
    made.ddfile('jsonl("far", "../far.jsonl")').make()
    assert "far.jsonl: outside of the project: its digest alone is packed" in made.make("pack", "-n").output
    (made.root.parent / "Shared").write_text('from ddmake.rules import *\njsonl("r", "far.jsonl")\n')
    made.ddfile('include("../Shared", prefix="s/")').make()
    result = made.run("pack")
    assert result.code == 2 and "Shared is part of the workflow and lies outside of" in result.output


def test_what_is_stale_edited_or_not_made_is_told(made):
    made.ddfile(DDFILE.replace("n=2", "n=1") + LATER)
    told = made.make("pack", "-n").output
    assert re.search(r"data/doubled: make, view of .*: what was last made of it is packed", told) and "late: isn't made yet" in told
    (made.root / "parts/train/state.json").write_text("{}")
    assert "parts/train: edited" in made.make("pack", "-n").output


def test_nothing_to_pack_is_told(project):
    result = project.ddfile("x = 1").run("pack")
    assert result.code == 1 and "so there is nothing to pack" in result.output
    assert project.ddfile(DDFILE.split("said")[0].replace("from numbers_of import double", "")).run("pack").code == 1


SECRETS = {  # what is put where -> what is said
    "Ddfile": ("KEY = 'sk-proj-abcdefghij0123456789'\n", "Ddfile:3 holds an API key"),
    "templates/say.j2": ("Say {{ x }}. hf_ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", "templates/say.j2:1 holds a token of the Hub"),
    "numbers_of.py": ("def double(text):\n    return text\nKEY = 'ghp_" + "a1" * 20 + "'\n", "numbers_of.py:3 holds a token of GitHub"),
    "table/a.txt": ("one\n-----BEGIN RSA PRIVATE KEY-----\n", "table/a.txt:2 holds a private key"),
    "in/rows.jsonl": ('{"x": "made of 17 hush hush"}\n{"x": "b"}\n', "in/rows.jsonl:1 holds the value of MY_TOKEN"),
}


@pytest.mark.parametrize("file", SECRETS)
def test_secrets_are_refused(project, file, monkeypatch):
    text, said = SECRETS[file]
    monkeypatch.setenv("MY_TOKEN", "made of 17 hush hush")
    written(project)
    if file == "Ddfile":
        project.ddfile(text + DDFILE.replace("\n    ", "\n"))
    else:
        project.write(file, text)
    project.make()
    result = project.run("pack", "-o", "all.tar")
    assert result.code == 1 and said in result.output and not (project.root / "all.tar").exists()
    assert not re.search("abcdefghij0123|ABCDEFGHIJ|a1a1a1|hush", result.output)


def test_secrets_in_calls_knobs_and_dotenv_are_refused(made, monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "Say v1. or else")
    made.write("in/rows.jsonl", '{"x": "v1. or else"}\n{"x": "b"}\n')
    made.make()
    result = made.run("pack", "--no-sources")
    assert result.code == 1 and "The calls hold the value of MY_API_KEY" in result.output and "--no-calls" in result.output
    made.ddfile('jsonl("e", ".env.jsonl")').write(".env.jsonl", '{"x": 1}\n')
    made.make()
    assert ".env.jsonl is where secrets are kept, and is never packed" in made.run("pack").output
    made.ddfile('cfg = config(key="")\n@step("k", "table")\ndef k(table):\n    return [{"x": 1}]').make("key=sk-abcdefghij0123456789")
    monkeypatch.delenv("MY_API_KEY")
    assert "The knob key is named like a secret" in made.run("pack", "key=sk-abcdefghij0123456789").output
    made.ddfile('cfg = config(name="")\n@step("k", "table")\ndef k(table):\n    return [{"x": 1}]').make("name=sk-abcdefghij0123456789")
    assert re.search("The knobs.* hold an API key", made.run("pack", "name=sk-abcdefghij0123456789").output)


def test_an_old_file_that_is_no_bundle_is_not_written_over(made):
    """Nor is a device, and a link stays one."""
    for name, why in (("Ddfile", "is there, and is something else"), ("/dev/null", "is no plain file"), ("in/rows.jsonl", "something else")):
        result = made.run("pack", "-o", name)
        assert result.code == 1 and why in result.output and "only a bundle is written over" in result.output
    assert Path("/dev/null").is_char_device()
    made.write("old.tar", "")
    (made.root / "link.tar").symlink_to("old.tar")
    for _ in range(2):
        made.make("pack", "-o", "link.tar")
        assert (made.root / "link.tar").is_symlink() and not (made.root / "old.tar").is_symlink()
    os.mkfifo(made.root / "pipe")
    for words in (["unpack", "pipe"], ["diff", "pipe"]):
        result = made.run(*words)
        assert result.code == 1 and "pipe is no plain file, and a bundle is one" in result.output


def test_half_a_character_in_a_constant_is_kept_shown_and_packed(tmp_path):
    (tmp_path / "here").mkdir()
    project = Project(tmp_path / "here").ddfile('''
        HALF = "a\\ud83d"
        @step("out")
        def out(text="b\\ud83d"):
            return [{"n": len(HALF + text)}]
    ''')
    project.make()
    project.make("cards")
    project.make("report")
    project.make("pack", "-o", "../all.tar")
    result = there(tmp_path / "all.tar")
    assert result.run("-q").code == 0 and "The same as" in result.make("diff", str(tmp_path / "here")).output


# unpacking where something is


def test_unpacking_twice_changes_nothing_and_other_work_stays(made, bundle):
    result = there(bundle)
    result.write("own.txt", "mine")
    assert "0 new calls" in there(bundle).make("unpack", str(bundle)).output
    assert result.run("-q").code == 0 and (result.root / "own.txt").exists()
    other = Project(bundle.parent / "other")
    other.root.mkdir()
    other.write("mine.dd", '@step("own")\ndef own():\n    return [{"x": 1}]\n'.join(["from ddmake import *\n", ""]))
    other.make("-f", "mine.dd")
    other.make("unpack", str(bundle))
    assert other.run("-q").code == 0 and other.run("-q", "-f", "mine.dd").code == 0


def test_nothing_is_overwritten(made, bundle):
    result = there(bundle)
    result.write("templates/say.j2", "Say {{ x }}!")
    result.make()
    before = {file: file.read_bytes() for file in result.root.glob("**/*") if file.is_file() and ".db" not in file.name}
    again = result.run("unpack", str(bundle))
    assert again.code == 1 and "data/doubled, data/said" in again.output and "templates/say.j2" in again.output
    assert {file: file.read_bytes() for file in before} == before


@pytest.mark.parametrize("step", ["_take_in_traces", "_place", "_note_run", "_write_files"])
def test_an_unpacking_that_was_cut_short_goes_on(made, bundle, step, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    result = Project(bundle.parent / "there")
    result.root.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(unpacking, step, stop)
        assert result.run("unpack", str(bundle)).code != 0
    assert not (result.root / "Ddfile").exists()
    result.make("unpack", str(bundle))
    assert result.run("-q").code == 0 and "All is as recorded." in result.make("verify").output


def test_unpacking_runs_nothing(made):
    made.ddfile("from pathlib import Path\nPath('ran').touch()\n" + DDFILE.replace("\n    ", "\n")).make()
    made.make("pack", "-o", "../all.tar")
    result = there(made.root.parent / "all.tar")
    result.make("unpack", "-n", str(made.root.parent / "all.tar"))
    assert not (result.root / "ran").exists()
    result.make("verify", "--no-verdicts")
    assert not (result.root / "ran").exists()
    result.make("-n")
    assert (result.root / "ran").exists()


def test_a_broken_target_is_packed_from_the_store_and_one_that_is_nowhere_is_told(made):
    (made.root / "parts/train/state.json").unlink()
    made.make("pack", "-o", "../all.tar")
    assert there(made.root.parent / "all.tar").run("-q").code == 0
    sha = hashlib.sha256((made.root / "data/rows/state.json").read_bytes()).hexdigest()
    kept = made.root / ".ddmake/objects" / sha[:2] / sha[2:]
    kept.write_text("damaged")
    assert re.search("is damaged: ddmake verify tells more. Nothing was packed", made.run("pack").output)
    kept.unlink()
    made.make("pack", "-o", "../all.tar")  # as it lies there
    for file in made.root.glob("*/*/state.json"):
        file.unlink()
    assert "so it can't be packed" in made.run("pack").output


# what others wrote


def members(bundle):
    """Return a bundle's manifest, and its other members by name."""
    with tarfile.open(bundle) as tar:
        found = {member.name: tar.extractfile(member).read() for member in tar}
    del found["manifest.sha256"]
    return json.loads(found.pop("manifest.json")), found


def forge(file, manifest, found, odd=()):
    """Write a bundle whose manifest fits its members, but for what a test has changed; `odd` are heads of their own."""
    text = json.dumps(manifest).encode()
    seal = f"{hashlib.sha256(text).hexdigest()}\n".encode()
    with tarfile.open(file, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in {"manifest.json": text, **found, "manifest.sha256": seal}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for part, value in dict(odd).get(name, {}).items():
                setattr(info, part, value)
            tar.addfile(info, io.BytesIO(data) if info.size else None)
    data = file.read_bytes().rstrip(b"\0")  # tarfile fills up to ten kilobytes
    file.write_bytes(data + bytes(-len(data) % 512) + bytes(1024))


def entry(name, data):
    return {"name": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def put(manifest, found, name, data=b"x"):
    """Put a member into a bundle, and into its manifest where it is told of."""
    manifest["members"] = [one for one in manifest["members"] if one["name"] != name] + [entry(name, data)]
    found.pop(name, None)
    found[name] = data


def named(path):
    return lambda manifest, found: put(manifest, found, path)


def of_traces(change):
    """Return what changes the rows of traces, and has the manifest agree."""
    def apply(manifest, found):
        rows = [json.loads(line) for line in found["records/traces.jsonl"].splitlines()]
        change(rows)
        put(manifest, found, "records/traces.jsonl", b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    return apply


def of_calls(**changes):
    def apply(manifest, found):
        rows = [{**json.loads(line), **changes} for line in found["records/calls.jsonl"].splitlines()]
        put(manifest, found, "records/calls.jsonl", b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    return apply


def first_output(rows):
    return next(iter(rows[0]["outputs"].values()))


FORGED = {  # what is done to manifest and members -> what is said
    "up": (named("project/../../evil"), r"'project/../../evil' leads out of the folder"),
    "absolute": (named("project//etc/evil"), r"leads out of the folder"),
    "elsewhere": (named("/etc/evil"), r"'/etc/evil' leads out of the folder"),
    "git": (named("project/.git/hooks/post-checkout"), r"lies where only git and ddmake write"),
    "store": (named("project/a/.DDMAKE/traces.db"), r"lies where only git and ddmake write"),
    "control": (named("project/a\nb"), r"is no path"),
    "long": (named("project/" + "a" * 2000), r"is longer than systems take"),
    "unknown kind": (named("programs/a"), r"'programs/a' is no part of a bundle"),
    "case": (named("project/DDFILE"), r"project/Ddfile and project/DDFILE would overwrite each other"),
    "file and folder": (named("project/Ddfile/x"), r"would overwrite each other"),
    "over a result": (named("project/data/rows"), r"would overwrite each other"),
    "another's name": (named("objects/" + "0" * 64), r"has the sha256 2d711642b726b044"),
    "newer": (lambda m, f: m.update(bundle=2, ddmake="9.1"), r"was written by a newer ddmake \('9.1'\). Upgrade with"),
    "no version": (lambda m, f: m.pop("bundle"), r"tells no version"),
    "twice": (lambda m, f: m["members"].append(m["members"][0]), r"project/Ddfile is in it twice"),
    "odd member": (lambda m, f: m["members"].append({"name": "project/x", "size": -1, "sha256": "0" * 64}), r"that can't be one"),
    "no members": (lambda m, f: m.pop("members"), r"that can't be one"),
    "unknown member": (lambda m, f: f.update({"project/x": b"x"}), r"it is longer than its manifest says"),
    "missing member": (lambda m, f: f.pop("project/Ddfile"), r"it is cut short"),
    "size": (lambda m, f: m["members"][0].update(size=10**15), r"it is cut short: [\d,]+ bytes of 1,000,\d\d\d,\d\d\d,\d\d\d,\d\d\d"),
    "no place": (lambda m, f: m.pop("placed"), r"doesn't tell what lies where"),
    "odd place": (lambda m, f: m["placed"].update({"data/rows": [99, ""]}), r"it holds no trace of data/rows"),
    "place outside": (lambda m, f: m["placed"].update({"../x": [0, ""]}), r"'../x' leads out of the folder"),
    "absent": (lambda m, f: m.update(absent={"x": 3}), r"tells of sources in a form"),
    "key": (of_traces(lambda rows: rows[0].update(key="0" * 64)), r"the trace of data/rows was made of something else than its key 0000"),
    "ingredients": (of_traces(lambda rows: rows[0]["record"]["ingredients"].update(schema=1)), r"was made of something else"),
    "odd ingredients": (of_traces(lambda rows: rows[0]["record"].update(ingredients={"inputs": 3})), r"tells of a job.ingredients.inputs in"),
    "no trace": (of_traces(lambda rows: rows[0].pop("made")), r"line 1 of records/traces.jsonl isn't a trace"),
    "output outside": (of_traces(lambda rows: first_output(rows)["manifest"].update({"../../x": "0" * 64})), r"'../../x', which leads out"),
    "output's path": (of_traces(lambda rows: first_output(rows).update(path="/etc/x")), r"'/etc/x', which leads out"),
    "no hash": (of_traces(lambda rows: first_output(rows)["manifest"].update(x="../..")), r"tells no hashes of data/rows"),
    "record": (of_traces(lambda rows: rows[0]["record"].update(usage={"a": 3})), r"line 1 of records/traces.jsonl tells of a job.usage.a in"),
    "part of a record": (of_traces(lambda rows: rows[0]["record"]["environment"].pop("python")), r"lacks a job.environment.python"),
    "unseen letters": (named("project/.g\u200cit/config"), r"lies where only git and ddmake write"),
    "columns": (of_traces(lambda rows: first_output(rows)["digest"].update(columns={"x": 1})), r"tells of outputs..digest.columns.x in a form"),
    "epoch": (lambda m, f: m["epochs"].update({"data/rows": 2**70}), r"doesn't tell what lies where"),
    "no object": (of_traces(lambda rows: first_output(rows)["manifest"].update(x="0" * 64)), rf"the file {'0' * 64} of data/rows isn't in it"),
    "later": (of_traces(lambda rows: rows[0]["record"]["inputs"][0].update(trace=1)), r"doesn't come after those of its inputs"),
    "failed rows": (of_traces(lambda rows: rows[0]["failed"].append([1])), r"has failed rows that can't be any"),
    "call": (of_calls(key="zz"), r"line 1 of records/calls.jsonl"),
    "call's number": (of_calls(tokens_in=2**70), r"line 1 of records/calls.jsonl isn't a call"),
    "call's rest": (of_calls(more="{"), r"line 1 of records/calls.jsonl"),
    "no JSON": (lambda m, f: put(m, f, "records/calls.jsonl", b"[[[\n"), r"holds a line that isn't JSON"),
    "deep JSON": (lambda m, f: put(m, f, "records/calls.jsonl", b"[" * 200_000), r"holds a line that isn't JSON"),
}


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """Give a bundle to be spoilt."""
    project = Project(tmp_path_factory.mktemp("example"))
    written(project)
    project.make()
    project.make("pack", "-o", "all.tar")
    return project.root / "all.tar"


def refused(project, file, said):
    """Have a bundle refused before anything is written."""
    for options in ((), ("-n",)):
        result = project.run("unpack", str(file), "--to", "new", *options)
        assert result.code == 1 and re.search(said, result.output), result.output
        assert "Traceback" not in result.output and len(result.output.splitlines()) == 1
    assert not (project.root / "new").exists()


@pytest.mark.parametrize("case", FORGED)
def test_a_forged_bundle_writes_nothing(case, example, project):
    change, said = FORGED[case]
    manifest, found = members(example)
    change(manifest, found)
    forge(project.root / "forged.tar", manifest, found)
    refused(project, project.root / "forged.tar", said)


def test_forging_nothing_gives_a_bundle_that_is_taken(example, project):
    """The forger's bundles are refused for what was changed in them, and for nothing else."""
    forge(project.root / "forged.tar", *members(example))
    project.make("unpack", "forged.tar", "--to", "new")


ODD = {  # the head of the Ddfile's member -> what is said
    "symlink": ({"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "where project/Ddfile should be, there is a symbolic link"),
    "link": ({"type": tarfile.LNKTYPE, "linkname": "/etc/passwd"}, "there is a link"),
    "device": ({"type": tarfile.CHRTYPE, "devmajor": 1}, "there is a device"),
    "pipe": ({"type": tarfile.FIFOTYPE}, "there is a pipe"),
    "folder": ({"type": tarfile.DIRTYPE}, "there is a folder"),
    "sparse": ({"type": tarfile.GNUTYPE_SPARSE}, "there is a sparse file"),
    "setuid": ({"mode": 0o4755}, "where project/Ddfile should be"),
    "name": ({"name": "../evil"}, r"there is '\.\./evil'"),
}


@pytest.mark.parametrize("case", ODD)
def test_members_that_are_no_plain_files_write_nothing(case, example, project):
    head, said = ODD[case]
    manifest, found = members(example)
    put(manifest, found, "project/Ddfile", found["project/Ddfile"])
    forge(project.root / "forged.tar", manifest, found, {"project/Ddfile": head})
    refused(project, project.root / "forged.tar", said)


def test_each_flipped_byte_is_found(example, project):
    """A byte of a member's contents is told with the digest, one of anything else with its place."""
    data, file = bytearray(example.read_bytes()), project.root / "flipped.tar"
    for at in range(0, len(data), 997):
        data[at] ^= 0x20
        file.write_bytes(data)
        result = project.run("unpack", "flipped.tar", "--to", "new")
        assert result.code == 1 and "Traceback" not in result.output, at
        data[at] ^= 0x20
    at = data.index(b"Double it.")
    data[at] ^= 1
    file.write_bytes(data)
    sha = next(one["sha256"] for one in members(example)[0]["members"] if one["name"] == "project/Ddfile")
    refused(project, file, rf"project/Ddfile has the sha256 [0-9a-f]{{64}}, and not {sha}\. It was damaged or tampered with")


@pytest.mark.parametrize("kept", [0, 100, 512, 3000, -1024, -1])
def test_a_bundle_that_is_cut_short_is_refused(kept, example, project):
    data = example.read_bytes()
    (project.root / "cut.tar").write_bytes(data[:kept])
    refused(project, project.root / "cut.tar", r"isn't a bundle|cut short")


@pytest.mark.parametrize("data", [b"hello", b"\x1f\x8b" + bytes(600), bytes(4096)])
def test_what_is_no_bundle_is_told(data, project):
    (project.root / "odd.tar").write_bytes(data)
    refused(project, project.root / "odd.tar", "isn't a bundle: those that `ddmake pack` writes begin with")


def test_two_names_that_differ_in_case_alone_are_not_packed(made):
    made.write("table/A.txt", "other")
    made.make()
    assert "table/A.txt and table/a.txt are the same name where" in made.run("pack").output


def test_no_room_is_told_before_anything_is_written(example, project, monkeypatch):
    monkeypatch.setattr(unpacking.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10})())
    result = project.run("unpack", str(example), "--to", "new")
    assert result.code == 1 and "and 10 are free there" in result.output and not (project.root / "new").exists()


def test_an_executable_stays_one(made):
    os.chmod(made.root / "table/a.txt", 0o755)
    made.make("pack", "-o", "../all.tar")
    root = there(made.root.parent / "all.tar").root
    assert os.access(root / "table/a.txt", os.X_OK) and not os.access(root / "Ddfile", os.X_OK)


def test_a_pattern_a_name_that_is_long_and_wide_letters_come_along(tmp_path):
    (tmp_path / "here").mkdir()
    project = Project(tmp_path / "here").ddfile('''
        @step("out/{name}", "in/{name}.txt")
        def out(file):
            return [{"x": file.read_text()}]
        alias("all", out.bind(name="ä" + "x" * 110), "out/b")
    ''')
    project.write(f"in/ä{'x' * 110}.txt", "one")
    project.write("in/b.txt", "two")
    project.make()
    project.make("pack", "-o", "../all.tar")
    result = there(Path(tmp_path / "all.tar"))
    assert result.run("-q").code == 0 and result.rows(f"out/ä{'x' * 110}") == [{"x": "one"}]
