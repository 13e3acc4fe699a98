"""Shell rules: a command, its inputs and outputs by placeholders, its failure in a sentence."""

import pytest


def test_paths_stand_in_the_command_by_name(project):
    project.write("my notes.txt", "one\ntwo words\n")
    project.ddfile("""
        rows = jsonl("rows", "n.jsonl")
        wide = shell("counted file.txt", {"notes": "my notes.txt", "rows": rows}, cmd="wc -l < {notes} > {output}; ls {rows} >> {output}")
        both = shell({"first": "out/first.txt", "all": "out/all"}, [wide, "my notes.txt"],
                     cmd="head -n1 {input} > {first}; cp {input} {all}; echo ${{HOME:+set}} '{{}}' >> {first}")
        shell("last.md", both.first, cmd="cat {input} > {output}")
    """)
    project.write("n.jsonl", '{"n": 1}\n')
    project.make("-j", "1")
    assert (project.root / "counted file.txt").read_text().split()[0] == "2"
    assert "dataset_info.json" in (project.root / "counted file.txt").read_text(), "a dataset arrives as its folder"
    assert sorted(path.name for path in (project.root / "out/all").iterdir()) == ["counted file.txt", "my notes.txt"]
    assert (project.root / "last.md").read_text().endswith("set {}\n")
    assert set(project.run("-n", "-v").verdicts().values()) == {"fresh"}


@pytest.mark.parametrize("edit, why", [
    (("n=1", "n=2"), "cmd changed"),
    (("cat {text}", "cat < {text}"), "cmd changed"),
    (("in.txt", "other.txt"), "input text changed"),
])
def test_command_and_inputs_count(project, edit, why):
    project.write("in.txt", "a\n")
    project.write("other.txt", "b\n")
    text = 'n=1\nshell("out.txt", {"text": "in.txt"}, cmd=f"cat {{text}} > {{output}}; echo {n} >> {{output}}")'
    project.ddfile(text).make()
    changed = text.replace(edit[0].replace("{", "{{").replace("}", "}}"), edit[1].replace("{", "{{").replace("}", "}}"))
    assert changed != text
    result = project.ddfile(changed).run("-n")
    assert result.verdicts() == {"out.txt": "make"} and why in result.why("out.txt")


@pytest.mark.parametrize("declared, told", [
    ('shell("o", {"text": "x"}, cmd="cat {txt} > {output}")', "Ddfile:3: shell: cmd has {txt}, and there are {text}, {output}. Did you mean 'text'?"),
    ('shell("o", {"text": "x", "more": "y"}, cmd="cat {text} > {output}")', "the input 'more' isn't used: write {more} in cmd, or leave it out"),
    ('shell("o", "x", cmd="cat {input} | awk \'{print $1}\' > {output}")', "cmd has {print $1}, and there are {input}, {output}. A brace that is the shell's own is doubled"),
    ('shell("o", "x", cmd="cat {input} > ${output")', "is doubled: {{ or }}"),
    ('shell("o", {"output": "x"}, cmd="cat {output}")', "'output' is an input and an output"),
    ('shell({"a": "o", "b": "p"}, "x", cmd="cat {input} > {output}")', "cmd has {output}, and there are {input}, {a}, {b}"),
    ('shell("o", {"n": 3}, cmd="seq {n} > {output}")', "the input 'n' is no path"),
    ('shell("o", "x", cmd="cat {input!r} > {output}")', "cmd has {input!r}"),
    ('shell("o", "x")', "missing a required argument: 'cmd'"),
])
def test_mistakes_are_told_when_the_ddfile_loads(project, declared, told):
    result = project.ddfile(declared).run("-n")
    assert result.code == 2 and told in result.output, result.output


@pytest.mark.parametrize("cmd, told", [
    ("echo this; echo no such luck >&2; exit 3", "the command ended with exit code 3: no such luck"),
    ("false | cat > {output}", "the command ended with exit code 1"),
    ("echo $UNSET > {output}", "UNSET: unbound variable"),
    ("kill -9 $$", "the command was killed by signal 9"),
    ("true", "it left its output empty"),
    ("cat > {output}; test -s {output}", "the command ended with exit code 1"),
])
def test_a_failing_command(project, cmd, told):
    result = project.ddfile(f'shell("o.txt", [], cmd="""true {{output}}; {cmd}""")').run()
    assert result.code == 1 and told in result.output and "log: .ddmake/logs/o.txt/" in result.output
    assert "Traceback" not in result.output + project.logs()
    assert not (project.root / "o.txt").exists()


def test_what_a_command_prints_is_in_the_log(project):
    project.ddfile('shell("o.txt", [], cmd="echo to out; echo to err >&2; echo x > {output}")').make()
    assert sorted(project.logs().splitlines()[1:]) == ["to err", "to out"]


def test_only_the_declared_environment_is_there(project, monkeypatch):
    monkeypatch.setenv("DECLARED", "yes")
    monkeypatch.setenv("SECRET", "no")
    project.ddfile('shell("o.txt", [], cmd="env > {output}", env=["DECLARED"], cpus=1)').make()
    names = {line.partition("=")[0] for line in (project.root / "o.txt").read_text().splitlines()}
    assert {"DECLARED", "PATH", "HOME", "OMP_NUM_THREADS"} <= names and "SECRET" not in names
    monkeypatch.setenv("DECLARED", "now")
    assert project.run("-n").verdicts() == {"o.txt": "make"}


def test_a_command_is_killed_with_all_that_it_started(project):
    import psutil

    project.ddfile('shell("o.txt", [], cmd="sleep 4711 & sleep 4711 # {output}", time="1s")')
    assert project.run().code == 1
    assert not [p for p in psutil.process_iter(["cmdline"]) if "4711" in (p.info["cmdline"] or [])]


def test_a_command_that_makes_nothing_is_told_when_the_ddfile_loads(project):
    result = project.ddfile('shell("a.txt", {}, cmd="echo hello")').run("-n")
    assert result.code == 2 and "Ddfile:3: shell: cmd has no {output}: write it where the result goes." in result.output
