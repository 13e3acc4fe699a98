"""Servers that ddmake starts: once for all that need them, ready before they are asked, and gone with whoever started them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from textwrap import dedent

import pytest
from fake_hub import FakeHub

from ddmake import llm
from ddmake.backends import check_name, providers
from ddmake.backends.servers import launch_of
from ddmake.errors import DdmakeError

FAKE = f"{sys.executable} {Path(__file__).with_name('fake_server.py')}"
MODEL = "server/vllm:org/model"
SHA = "1" * 40


@pytest.fixture
def fake(monkeypatch):
    """Have the fake server stand in vLLM's place."""
    monkeypatch.setenv("DDMAKE_SERVER_VLLM", FAKE)


def starts(project) -> list[dict]:
    file = project.root / "starts.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def is_alive(pid: int) -> bool:
    told = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(told) and not told.startswith("Z")


def parent(pid: int) -> int:
    return int(subprocess.run(["ps", "-o", "ppid=", "-p", str(pid)], capture_output=True, text=True).stdout)


def until(seen, seconds: float = 20.0):
    """Wait until something is seen, and return it."""
    end = time.monotonic() + seconds
    while not (found := seen()):
        assert time.monotonic() < end, "not in time"
        time.sleep(0.05)
    return found


def gone(*told: dict) -> bool:
    return not any(is_alive(start[who]) for start in told for who in ("pid", "keeper", "child"))


def ddfile(project, more: str = "", n: int = 3) -> None:
    project.ddfile(f"""
        m = llm({MODEL!r}, revision={SHA!r}{more})
        generate("a", llm=m, prompt="ask", n={n}, on_error="raise")
    """)


# --- the life of a server -------------------------------------------------------------------------------------------------

@pytest.mark.slow
def test_rules_share_a_server_and_it_gives_way_to_the_next(project, fake):
    project.ddfile(f"""
        m = llm({MODEL!r}, revision={SHA!r}, flags={{"slow": 0.5}})
        a = generate("a", llm=m, prompt="one", n=3)
        b = generate("b", llm=m.using(temperature=0.5), prompt="two", n=2)
        transform("c", a, llm=m.using(flags={{"max_model_len": 99}}), prompt="{{{{ text }}}} {{{{ text }}}}", column="y")
    """)
    project.make("b")
    [one] = starts(project)
    assert one["words"][0] == "org/model" and one["words"][-2:] == ["--slow", "0.5"]
    assert gone(one), "the server is stopped at the run's end"
    project.make()
    two, three = starts(project)[1:]
    assert three["words"][-2:] == ["--max-model-len", "99"]
    assert two["pid"] not in three["alive"], "a server that nobody asks makes room for the next"
    assert project.rows("a") == [{"text": "ONE"}] * 3 and project.rows("c")[0]["y"] == "ONE ONE"
    assert gone(two, three)


def test_what_is_known_starts_no_server(project, fake):
    ddfile(project)
    project.make()
    (project.root / "a").rename(project.root / "b")
    for folder in ("objects", "traces.db"):
        subprocess.run(["rm", "-rf", str(project.root / ".ddmake" / folder)], check=True)
    project.make()
    assert len(starts(project)) == 1


@pytest.mark.slow
def test_a_server_that_dies_is_started_once_more_and_nothing_is_lost(project, fake):
    ddfile(project, ", flags={'dies': 20}", n=60)
    project.make()
    assert len(starts(project)) == 2 and len(project.rows("a")) == 60
    assert gone(*starts(project)), "what the first one left behind, too"


@pytest.mark.slow
def test_a_death_of_our_own_server_is_no_try(project, fake):
    ddfile(project, ", flags={'dies': 20}, retries=0", n=60)
    project.make()
    assert len(starts(project)) == 2 and project.rows("a") == [{"text": "ASK"}] * 60


def test_each_start_has_a_log_of_its_own(project, fake):
    ddfile(project, ", flags={'dies': 2}, concurrency=1")
    project.make()
    logs = [path.name for path in (project.root / ".ddmake" / "logs" / "servers").iterdir()]
    ports = [start["words"][start["words"].index("--port") + 1] for start in starts(project)]
    assert len(logs) == 2 and sorted(name.rpartition("-")[2] for name in logs) == sorted(f"{port}.log" for port in ports)


def test_a_model_of_another_name_shows(project, fake):
    project.ddfile(f"""
        for name in ("other", "org/model"):
            generate(name[:5], llm=llm({MODEL!r}, revision={SHA!r}, flags={{"says": name}}), prompt="ask", n=1, meta=True)
    """)
    project.make()
    assert [project.rows(name)[0]["text_meta"]["model"] for name in ("other", "org/m")] == ["other", "org/model"]


def test_a_server_that_dies_twice_ends_the_rule(project, fake):
    ddfile(project, ", flags={'dies-again': 20}", n=60)
    result = project.run()
    assert result.code == 1 and f"{MODEL}: `vllm serve` has died twice. Its log, .ddmake/logs/servers/" in result.output
    assert len(starts(project)) == 2 and gone(*starts(project))


@pytest.mark.parametrize("flags, limit, told", [
    ("'broken': True", "60", "`vllm serve` ended before it was ready. Its log, .ddmake/logs/servers/"),
    ("'slow': 60", "0.5", "`vllm serve` wasn't ready after 0 s (DDMAKE_SERVER_START gives it more). Its log, .ddmake/logs/servers/"),
])
def test_a_server_that_cannot_be_started_says_why(project, fake, monkeypatch, flags, limit, told):
    monkeypatch.setenv("DDMAKE_SERVER_START", limit)
    ddfile(project, f", flags={{{flags}}}")
    result = project.run()
    assert result.code == 1 and f"a: {MODEL}: {told}" in " ".join(result.output.split("  "))
    assert ("MemoryError: no room for the model" in result.output) == ("broken" in flags)
    assert ("ended with exit code 3" in result.output) == ("broken" in flags)
    assert len(starts(project)) == 1 and gone(*starts(project)), "one try for all rows"


def test_a_long_log_is_told_by_its_end_and_in_plain_words(project, fake):
    ddfile(project, ", flags={'babbles': True}")
    result = project.run()
    assert result.code == 1 and "  the end\n" in result.output and "xxx" not in result.output


def test_another_process_at_its_port_is_not_taken_for_a_server(project, fake):
    ddfile(project, ", flags={'usurped': True}")
    result = project.run()
    assert result.code == 1 and "`vllm serve` ended before it was ready" in result.output


@pytest.mark.parametrize("victim", ["head", "caller"])
def test_a_server_does_not_outlive_who_started_it(project, fake, victim):
    ddfile(project, ", flags={'slow': 60}")
    head = project.command()
    one = until(lambda: starts(project))[0]
    os.kill(head.pid if victim == "head" else parent(one["keeper"]), signal.SIGKILL)
    until(lambda: gone(one))
    head.kill()
    head.wait()
    until(lambda: gone(*starts(project)))


def test_a_run_that_is_stopped_does_not_wait_for_a_server_to_start(project, fake):
    ddfile(project, ", flags={'slow': 60}")
    head = project.command()
    one = until(lambda: starts(project))[0]
    head.send_signal(signal.SIGINT)
    assert head.wait(timeout=15) != 0
    assert gone(one)


def test_an_adapter_that_a_rule_makes_is_served_with_its_base(project, fake):
    project.ddfile(f"""
        @step("lora", rank=4)
        def lora(*, rank, output):
            (output / "adapter_config.json").write_text('{{"r": %d}}' % rank)
        generate("a", llm=llm({MODEL!r}, revision={SHA!r}, adapter=lora), prompt="ask", n=1, on_error="raise")
    """)
    project.make()
    words = starts(project)[0]["words"]
    assert words[-5:] == ["--enable-lora", "--max-lora-rank", "8", "--lora-modules", f"adapted={(project.root / 'lora').resolve()}"]
    assert project.run("-n").verdicts() == {} and "2 fresh" in project.run("-n").output


def test_a_name_on_the_hub_is_served_at_its_commit(project, fake):
    hub = FakeHub()
    sha = hub.push("models/org/model", {"config.json": b"{}"})
    project.ddfile(f"generate('a', llm=llm({MODEL!r}), prompt='ask', n=1, on_error='raise')")
    head = project.command(HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0", HF_HOME=str(project.root / "cache"), HF_TOKEN="", NO_PROXY="127.0.0.1")
    output = head.communicate(timeout=60)[0]
    hub.close()
    assert head.returncode == 0, output
    assert f'"org/model@main" = "{sha}"' in (project.root / "Ddfile.lock").read_text()
    words = starts(project)[0]["words"]
    assert words[words.index("--revision") + 1] == words[words.index("--tokenizer-revision") + 1] == sha


# --- what is started, and what counts -------------------------------------------------------------------------------------

COMMANDS = {  # name, parameters -> the words after the program
    "vllm": ("server/vllm:org/m", dict(dtype="bfloat16", revision=SHA, flags={"max_model_len": 9}),
             f"org/m --host 127.0.0.1 --port 7 --served-model-name org/m --revision {SHA} --tokenizer-revision {SHA} "
             "--dtype bfloat16 --max-model-len 9"),
    "flags": ("server/vllm:org/m", dict(flags={"b": False, "a": True, "hf-overrides": {"x": 1}, "c": ["y", 2]}),
              'org/m --host 127.0.0.1 --port 7 --served-model-name org/m --a --no-b --c y 2 --hf-overrides {"x":_1}'),
    "transformers": ("server/transformers:org/m", dict(dtype="float32", revision=SHA),
                     f"org/m@{SHA} --host 127.0.0.1 --port 7 --dtype float32"),
    "a folder": ("server/transformers:./m", {}, "ROOT/m --host 127.0.0.1 --port 7"),
    "an adapter": ("server/vllm:org/m", dict(adapter="./lora"),
                   "org/m --host 127.0.0.1 --port 7 --served-model-name org/m --enable-lora --max-lora-rank 16 --lora-modules adapted=ROOT/lora"),
    "sglang": ("server/sglang:org/m", dict(revision=SHA),
               f"--model-path org/m --host 127.0.0.1 --port 7 --served-model-name org/m --revision {SHA}"),
    "llama.cpp": ("server/llamacpp:./m.gguf", {}, "--model ROOT/m.gguf --host 127.0.0.1 --port 7 --alias ./m.gguf"),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_command_lines(case, monkeypatch, tmp_path):
    name, parameters, words = COMMANDS[case]
    launch = launch_of(llm(name, **parameters))
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").write_text('{"r": 12}')
    monkeypatch.setenv(f"DDMAKE_SERVER_{launch.kind.upper()}", f"{sys.executable} -u 'a b'")
    assert launch.program() == [sys.executable, "-u", "a b"]
    assert [word.replace(" ", "_") for word in launch.arguments(tmp_path, 7)] == words.replace("ROOT", str(tmp_path.resolve())).split()


SAME = [  # parameters of two llms that are one model behind one server, as far as keys say
    ("temperature does not tell servers apart", {"temperature": 0.1}, {"temperature": 0.9}),
    ("the order of flags", {"flags": {"a": 1, "b": 2}}, {"flags": {"b": 2, "a": 1}}),
    ("limits", {"concurrency": 1, "timeout": 3.0}, {}),
]
OTHER = [("flags", {"flags": {"a": 1, "b": 2}}, {"flags": {"a": 2, "b": 1}}), ("dtype", {"dtype": "float16"}, {}), ("revision", {"revision": SHA}, {})]


@pytest.mark.parametrize("case, one, two", SAME)
def test_one_model(case, one, two, monkeypatch):
    monkeypatch.setenv("DDMAKE_SERVER_VLLM", "elsewhere")
    first, second = llm(MODEL, **one), llm(MODEL, **two)
    assert providers.identity(first) == providers.identity(second) and launch_of(first) == launch_of(second)
    assert "elsewhere" not in str(providers.identity(first))


@pytest.mark.parametrize("case, one, two", OTHER)
def test_another_model(case, one, two):
    first, second = llm(MODEL, **one), llm(MODEL, **two)
    assert providers.identity(first) != providers.identity(second) and launch_of(first) != launch_of(second)


def test_flags_count_for_a_step(project, fake):
    keys = []
    for more in ("", ", flags={'x': 1}", ", flags={'x': 1}, timeout=3.0"):
        ddfile(project, more)
        keys.append(json.loads(project.make("-n", "--json").output)["rules"][0]["key"])
    assert keys[0] != keys[1] == keys[2]


def test_a_folder_counts_by_its_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder, text in (("one", "{}"), ("two", "{}"), ("three", '{"x": 1}')):
        Path(folder).mkdir()
        Path(folder, "config.json").write_text(text)
    one, two, three = (providers.identity(llm(f"server/vllm:./{name}")) for name in ("one", "two", "three"))
    assert one == two != three
    with pytest.raises(DdmakeError, match=r"llm\('server/vllm:./none'\): ./none isn't there"):
        providers.identity(llm("server/vllm:./none"))


# --- mistakes -------------------------------------------------------------------------------------------------------------

MISTAKES = {
    "an unknown kind": ("'server/vlm:org/m'", "there is no server 'vlm'. There are vllm, transformers, sglang, llamacpp. Did you mean 'vllm'?"),
    "no model": ("'server/vllm'", "llm('server/vllm') names no model: write server/vllm:org/model."),
    "an address": ("'server/vllm:org/m', base_url='http://h/v1'", "base_url= is for a server that runs already, and this one is started."),
    "a name for llama.cpp": ("'server/llamacpp:org/m'", "llama-server is given a file here: write server/llamacpp:./model.gguf."),
    "an adapter": ("'server/transformers:org/m', adapter='./lora'", "transformers is started without adapter=."),
    "an adapter's name": ("'server/vllm:org/m', adapter='lora'", "adapter='lora' is neither a target nor a folder. Write ./lora if it is one."),
    "a quantisation": ("'server/vllm:org/m', quantize='int8'", "quantize= is for a model in process. Give the server a flag of its own, by flags={…}."),
    "a batch": ("'server/vllm:org/m', batch=True", "has no batch API. Leave batch= out."),
    "a folder's revision": ("'server/vllm:./m', revision='main'", "revision= is for a name on the Hub, and this is none."),
    "a file's dtype": ("'server/llamacpp:./m.gguf', dtype='float16'", "llamacpp takes no dtype: it is the file's."),
    "our port": ("'server/vllm:org/m', flags={'port': 80}", "the flag 'port' is ddmake's to set."),
    "a secret": ("'server/vllm:org/m', flags={'api_key': 'x'}", "the flag 'api_key' would put a secret into keys and records."),
    "flags of a service": ("'openai/gpt-4o', flags={'x': 1}", "flags= are of a server that ddmake starts, as server/vllm:org/model."),
    "transformers' top_k": ("'server/transformers:tiny', top_k=3", "transformers takes no top_k."),
    "stop in continuous batching": ("'server/transformers:tiny', stop='.', flags={'continuous-batching': True}",
                                    "transformers ignores stop with continuous batching."),
    "transformers' responses": ("'server/transformers:tiny', api='responses'", "transformers streams what api=\"responses\" asks."),
    "seeds at once": ("'server/transformers:tiny', seed=1, concurrency=2", "transformers seeds the whole server"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes(project, case):
    words, told = MISTAKES[case]
    result = project.ddfile(f"generate('a', llm=llm({words}), prompt='x', n=1)").run()
    assert result.code == 2 and "Ddfile:3: " in result.output and told in result.output


# --- models that rules make, and folders -----------------------------------------------------------------------------------

MADE = """
    @step("models/x")
    def x(*, size=1, output):
        (output / "config.json").write_text('{"x": %d}' % size)
    @step("{lang}/m")
    def m(*, lang, size=1, output):
        (output / "config.json").write_text('{"lang": "%s", "x": %d}' % (lang, size))
"""
PATHS = [("models/x", "models/x"), ("./models/x", "models/x"), ("./models/../models/x/", "models/x"), ("ROOT/models/x", "models/x"),
         ("../NAME/models/x", "models/x"), ("./fr/m", "fr/m"), ("ROOT/fr/m", "fr/m"), ("fr/m", "fr/m")]  # as it is named, what is served


def asking(project, model: str, size: int = 1) -> None:
    model = model.replace("ROOT", str(project.root)).replace("NAME", project.root.name)
    project.ddfile(f"{dedent(MADE)}\ngenerate('a', llm=llm('server/vllm:{model}'), prompt='ask', n=1, on_error='raise')"
                   .replace("size=1", f"size={size}"))


@pytest.mark.parametrize("named, path", PATHS)
def test_a_model_that_a_rule_makes_is_waited_for(project, fake, named, path):
    asking(project, named)
    assert project.make("-n", "a").verdicts() == {path: "make", "a": "maybe"}
    asking(project, named, size=2)
    project.make("a")
    assert starts(project)[0]["words"][0] == str((project.root / path).resolve())
    assert project.make("-n", "a").verdicts() == {}, "nothing is left to be done"
    asking(project, named, size=3)
    assert project.make("-n", "a").verdicts() == {path: "make", "a": "maybe"}


def test_a_made_model_counts_by_its_contents(project, fake):
    asking(project, "models/x")
    project.make("a")
    shutil.rmtree(project.root / "models")
    assert project.make("-n", "a").verdicts() == {"models/x": "restore"}
    project.make("--into", "trial/", "a")
    assert (project.root / "trial" / "a").exists() and len(starts(project)) == 1, "the same answers, and no other server"
    asking(project, f"{project.root}/models/x", size=2)
    project.make("--into", "trial/", "a")
    assert starts(project)[1]["words"][0] == str((project.root / "trial/models/x").resolve())


@pytest.mark.parametrize("named, told", [
    ("./models/x/sub", "models/x/sub lies inside models/x, which a rule makes. Give models/x as the input."),
    ("./models", "the source models holds models/x, which a rule makes. Give that as the input."),
])
def test_a_part_of_a_target_is_no_servers_model(project, fake, named, told):
    asking(project, named)
    result = project.run("-n", "a")
    assert result.code == 2 and told in result.output


def test_a_model_that_is_not_there_is_waited_for(project, fake):
    asking(project, "./mm")
    assert "Ddfile:11: a needs mm, which isn't there and which no rule makes." in project.run("-n", "a").output
    project.write("mm/config.json", "{}")
    project.make("a")
    assert project.make("-n", "a").verdicts() == {}
    project.write("mm/config.json", '{"x": 1}')
    assert project.make("-n", "a").verdicts() == {"a": "make"}, "a folder counts by its files"


def test_a_model_is_read_by_way_of_the_arguments(project, fake):
    asking(project, "./models/x")
    with (project.root / "Ddfile").open("a") as file:
        file.write("\nm = llm('server/vllm:./models/x')\n@step('b')\ndef b():\n    return [{'name': m.name}]\n")
    result = project.run("-n", "b")
    assert result.code == 2 and "b: it reads an llm of the model models/x from outside of its arguments" in result.output
    assert "Pass the llm as an argument." in result.output


def test_a_card_names_the_made_model(project, fake):
    asking(project, "models/x")
    project.make("a")
    entry = json.loads(project.make("cards", "a", "--json").output)["data_card"]["a"]
    assert [model["name"] for model in entry["models"]] == ["models/x"] and entry["models"][0]["made_here"]


def test_an_included_ddfiles_model_lies_beside_its_own_file(project, fake):
    project.write("other/mm/config.json", "{}")
    project.write("other/Ddfile", f"""
        from ddmake import *
        from ddmake.rules import *
        generate("a", llm=llm("server/vllm:./mm"), prompt="a", n=1, on_error="raise")
        {dedent(MADE).replace(chr(10), chr(10) + " " * 8)}
        generate("b", llm=llm("server/vllm:models/x"), prompt="b", n=1, on_error="raise")
    """)
    project.ddfile('include("other/Ddfile", prefix="qa/")')
    project.make()
    assert {start["words"][0] for start in starts(project)} == {str((project.root / path).resolve()) for path in ("other/mm", "qa/models/x")}


def test_right_names():
    assert [check_name(name, None) for name in ("server/vllm:org/m", "server/transformers:tiny", "server/llamacpp:./m.gguf")] == [None] * 3


@pytest.mark.parametrize("variable, told", [
    (None, "server/sglang needs the command 'sglang', which isn't there. Install sglang, if need be in an environment of its own, "
           'and set DDMAKE_SERVER_SGLANG to the command there: DDMAKE_SERVER_SGLANG="/path/to/bin/sglang serve".'),
    ("/nowhere/sglang serve", "DDMAKE_SERVER_SGLANG names '/nowhere/sglang', which isn't there. Mend it."),
    ("sglang 'serve", 'DDMAKE_SERVER_SGLANG is no command: No closing quotation in "sglang \'serve". Mend it.'),
])
def test_a_program_that_is_not_there(project, monkeypatch, variable, told):
    monkeypatch.setenv("DDMAKE_SERVER_SGLANG", variable or "")
    project.ddfile(f"generate('a', llm=llm('server/sglang:org/m', revision={SHA!r}), prompt='x', n=1)")
    assert project.run("-n").code == 0, "a plan needs no server"
    result = project.run()
    assert result.code == 2 and f"Ddfile:3: a: {told}" in result.output


@pytest.mark.parametrize("said", ["-1", "0", "soon", "nan", "inf"])
def test_a_limit_that_is_none(project, fake, monkeypatch, said):
    monkeypatch.setenv("DDMAKE_SERVER_START", said)
    ddfile(project)
    result = project.run()
    assert result.code == 2 and f"Ddfile:5: a: DDMAKE_SERVER_START={said} is no number of seconds above 0. Mend it" in result.output
    assert project.run("-n").code == 0, "a plan needs no server"


# --- a real one -----------------------------------------------------------------------------------------------------------

@pytest.mark.slow
@pytest.mark.skipif(not find_spec("fastapi") or not find_spec("uvicorn"), reason="transformers serve needs fastapi and uvicorn")
def test_transformers_serve(project):
    """Its gaps are closed: a temperature draws, a seed holds for its row, a stop string ends the answer, a schema is put in words."""
    project.ddfile("""
        m = llm("server/transformers:tiny", max_tokens=250)
        drawn = generate("drawn", llm=m.using(temperature=1.0, seed=1), prompt="Write an abstract.", n=2, meta=True)
        again = generate("again", llm=m.using(temperature=1.0, seed=1, cache=False), prompt="Write an abstract.", n=2)
        sure = generate("sure", llm=m.using(temperature=0.0), prompt="Write an abstract.", n=1)
        stopped = generate("stopped", llm=m.using(stop=[". ", "?"]), prompt="Write an abstract.", n=1)
        form = generate("form", llm=m, prompt="Write an abstract.", schema={"word": str}, n=1)
    """)
    result = project.run("-k")
    drawn, again, sure = (project.rows(name) for name in ("drawn", "again", "sure"))
    assert [row["text"] for row in drawn] == [row["text"] for row in again], result.output
    assert len({row["text"] for row in (*drawn, *sure)}) == 3 and all(len(row["text"]) > 100 for row in drawn)
    assert project.rows("stopped")[0]["text"][-1].isalpha(), "the stop string isn't part of the answer"
    assert {row["text_meta"]["model"] for row in drawn} == {"tiny"}, "no path of this machine"
    assert "form: " in result.output and "JSON" in result.output
    [log] = (project.root / ".ddmake" / "logs" / "servers").iterdir()
    assert log.read_text().startswith('["transformers serve", "') and "POST /v1/chat/completions" in log.read_text()
