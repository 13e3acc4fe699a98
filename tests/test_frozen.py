"""`--frozen`: everything from what is stored, with the network off, or the first thing that is missing by its name."""

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from ddmake.backends import offline

DDFILE = '''
    rows = jsonl("data/rows", "rows.jsonl")
    said = transform("data/said", rows, llm=llm("openai/gpt-4o-mini", base_url="{url}"), column="y", prompt="Say {{{{ x }}}}.")

    @step("data/loud", said)
    def loud(rows):
        return [{{"y": row["y"] + "!"}} for row in rows]
'''


@pytest.fixture
def made(project, service, monkeypatch):
    """Give a project that asked a service, which is then gone for who is frozen."""
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    project.ddfile(DDFILE.format(url=service.url))
    project.write("rows.jsonl", "".join(f'{{"x": "v{number}"}}\n' for number in range(3)))
    project.make()
    project.service = service
    return project


def forget_call(project, word):
    with closing(sqlite3.connect(project.root / ".ddmake/calls.db")) as db:
        db.execute("DELETE FROM calls WHERE request LIKE ?", (f"%{word}%",))
        db.commit()


def forget_results(project):
    """Remove all that is made and kept, but for the calls."""
    shutil.rmtree(project.root / "data")
    for path in (".ddmake/objects", ".ddmake/traces.db", ".ddmake/traces.db-wal", ".ddmake/traces.db-shm"):
        place = project.root / path
        shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)


def test_deleted_results_come_from_the_store_and_stale_ones_from_calls(made, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    before = made.service.counts()
    shutil.rmtree(made.root / "data")
    assert "restored 3" in made.make("--frozen").output
    forget_results(made)
    assert "made 3" in made.make("--frozen").output
    assert made.service.counts() == before and "Nothing to do" in made.make("--frozen").output


def test_a_missing_call_is_named_before_anything_is_run(made):
    before = made.service.counts()
    forget_call(made, "v1")
    made.make("--force", "data/rows")
    shutil.rmtree(made.root / "data/loud")
    result = made.run("--frozen", "--force", "data/said")
    assert result.code == 1 and "the answer of openai/gpt-4o-mini to prompt 1 isn't stored ('Say v1.'), and --frozen sends nothing" \
        in result.output
    assert "making" not in result.output and made.service.counts() == before
    assert made.run("--frozen", "-n", "--force", "data/said").code == 1


def test_a_missing_call_behind_something_is_named_by_its_job(made):
    before = made.service.counts()
    forget_call(made, "v1")
    forget_results(made)
    result = made.run("--frozen")
    assert result.code == 1 and "made data/rows" in result.output
    assert "the answer of openai/gpt-4o-mini to prompt 1 isn't stored ('Say v1.')" in result.output, result.output
    assert made.service.counts() == before
    assert "1 sent, 2 cached" in made.make().output


def test_a_missing_source_and_an_edited_output_are_named(made):
    (made.root / "data/loud/state.json").write_text("{}")
    result = made.run("--frozen")
    assert result.code == 1 and "data/loud/state.json isn't what was made" in result.output
    (made.root / "rows.jsonl").unlink()
    result = made.run("--frozen")
    assert result.code == 1 and "data/rows waits for rows.jsonl, which --frozen can't make. Put it there." in result.output


def test_a_model_that_is_only_on_the_hub_is_named(project):
    project.ddfile('finetune("m", jsonl("r", "r.jsonl"), base="org/none", prompt="{{ x }}", completion="x")')
    project.write("r.jsonl", '{"x": "a"}\n')
    result = project.run("--frozen")
    assert result.code != 0 and "the model org/none@main isn't in Ddfile.lock" in result.output and "making" not in result.output


def test_new_answers_are_never_asked_for(made):
    before = made.service.counts()
    result = made.run("--frozen", "--resample", "data/said")
    assert result.code == 1 and "to prompt 0 isn't stored" in result.output and made.service.counts() == before
    assert "Nothing to do" in made.make().output


RECIPES = {  # what a recipe does, and fails by
    "connect": "import socket; socket.create_connection(('127.0.0.1', {port}))",
    "address": "import socket; socket.socket().connect(('192.0.2.1', 80))",
    "look up": "import socket; socket.getaddrinfo('example.org', 80)",
    "datagram": "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))",
    "urllib": "import urllib.request; urllib.request.urlopen('http://127.0.0.1:{port}/counts')",
    "aiohttp": "import asyncio, aiohttp\n        async def get():\n            async with aiohttp.ClientSession() as s:\n"
               "                await s.get('http://127.0.0.1:{port}/counts')\n        asyncio.run(get())",
}


@pytest.mark.parametrize("how", RECIPES)
def test_no_recipe_reaches_the_network(how, project, service):
    port = service.root.rpartition(":")[2]
    project.ddfile(f'''
    @step("out", version="1")
    def out():
        {RECIPES[how].format(port=port)}
        return [{{"x": 1}}]
    ''')
    result = project.run("--frozen")
    assert result.code == 1 and ("the network is off (--frozen)" in result.output + project.logs()), result.output


def test_pipes_and_sockets_of_this_machine_stay(project):
    project.ddfile('''
        @step("out")
        def out():
            import socket
            a, b = socket.socketpair()
            a.sendall(b"x")
            socket.create_server(("127.0.0.1", 0)).close()
            return [{"x": b.recv(1).decode()}]
    ''').make("--frozen")
    assert project.rows("out") == [{"x": "x"}]


def test_programs_find_no_proxy_and_libraries_of_the_hub_hear_of_it(project):
    project.ddfile('''
        @step("out")
        def out():
            import os
            return [{name: os.environ.get(name) for name in ("HF_HUB_OFFLINE", "https_proxy", "ALL_PROXY")}]
    ''').make("--frozen")
    assert project.rows("out") == [{"HF_HUB_OFFLINE": "1", "https_proxy": offline.NOWHERE, "ALL_PROXY": offline.NOWHERE}]
    assert offline.FROZEN not in os.environ and not os.environ.get("https_proxy") == offline.NOWHERE


def test_the_head_itself_reaches_nothing():
    script = ("import socket\nfrom ddmake.backends import offline\nwith offline.frozen(True):\n"
              "    try: socket.create_connection(('127.0.0.1', 9))\n    except OSError as error: print(error)\n")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "[Errno 111] the network is off (--frozen)\n" or "the network is off" in done.stdout, done.stderr
