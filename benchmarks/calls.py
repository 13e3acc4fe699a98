"""Requests to an LLM API: ddmake beside bare aiohttp, and beside aiohttp with a SQLite cache; counted by the server.

    python benchmarks/calls.py [cold cached parser kill faults cut equal two echo …] [--prompts 2000] [--at-once 100]

A local server answers after 50 ms. Times are wall-clock seconds and CPU seconds of all processes (the server's aside),
memory is the largest process's; the last column is what the server saw. Compare ratios within one run.
"""

import argparse
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
SERVER = HERE.parent / "tests" / "fake_openai.py"
RETRY_AFTER = "1"

DDFILE = """\
from ddmake import *
from ddmake.rules import *

cfg = config(n={n}, url="", at_once={at_once}, differ=0)

@step("rows")
def rows(n=cfg.n, differ=cfg.differ):
    yield from ({{"x": f"Question {{i % (differ or n)}}: what does a transformer attend to, and why?"}} for i in range(n))

model = llm("openai/mock", base_url=cfg.url, concurrency=cfg.at_once, temperature=0 if cfg.differ else 0.7)
transform("said", rows, llm=model, prompt="{{{{ x }}}}", column="said"{parse})
"""
ECHO = """\
from ddmake import *
from ddmake.rules import *

@step("rows")
def rows():
    yield from ({{"x": f"Question {{i}}: what does a transformer attend to, and why?"}} for i in range({n}))

transform("said", rows, llm=llm("echo"), prompt="{{{{ x }}}}", column="said")
"""
BARE = """\
import asyncio, json, sys, aiohttp
url, n, at_once = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
async def main():
    todo = iter(range(n))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        async def work():
            for i in todo:
                body = {"model": "mock", "temperature": 0.7,
                        "messages": [{"role": "user", "content": f"Question {i}: what does a transformer attend to, and why?"}]}
                async with session.post(url + "/chat/completions", json=body) as reply:
                    json.loads(await reply.read())["choices"][0]["message"]["content"]
        await asyncio.gather(*[work() for _ in range(at_once)])
asyncio.run(main())
"""
CACHED = """\
import asyncio, hashlib, json, random, sqlite3, sys, aiohttp
url, n, at_once = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
db = sqlite3.connect("calls.db", isolation_level=None)
db.execute("pragma journal_mode=WAL"); db.execute("pragma synchronous=NORMAL")
db.execute("create table if not exists calls (key blob primary key, answer text)")
asked = [{"model": "mock", "temperature": 0.7,
          "messages": [{"role": "user", "content": f"Question {i}: what does a transformer attend to, and why?"}]}
         for i in range(n)]
keys = [hashlib.blake2b(json.dumps(body, sort_keys=True).encode(), digest_size=16).digest() for body in asked]
known = {key for (key,) in db.execute("select key from calls")}
pending = []
def flush():
    db.execute("begin"); db.executemany("insert or ignore into calls values (?, ?)", pending); db.execute("commit")
    pending.clear()
async def main():
    todo = (i for i in range(n) if keys[i] not in known)
    async def flusher():
        while True:
            await asyncio.sleep(0.05); flush()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        async def one(i):
            for attempt in range(10):
                try:
                    async with session.post(url + "/chat/completions", json=asked[i]) as reply:
                        if reply.status == 429:
                            await asyncio.sleep(float(reply.headers.get("Retry-After", 1)) * random.uniform(.9, 1.1)); continue
                        if reply.status >= 500:
                            await asyncio.sleep(min(.25 * 2**attempt, 10) * random.uniform(.5, 1)); continue
                        pending.append((keys[i], json.loads(await reply.read())["choices"][0]["message"]["content"])); return
                except (aiohttp.ClientError, ValueError):
                    await asyncio.sleep(.2)
        async def work():
            for i in todo: await one(i)
        flushing = asyncio.create_task(flusher())
        await asyncio.gather(*[work() for _ in range(at_once)])
        flushing.cancel()
    flush()
asyncio.run(main())
"""


class Server:
    """The service, in a process of its own."""

    def __init__(self, latency: float):
        self.process = subprocess.Popen([sys.executable, str(SERVER), str(latency)], stdout=subprocess.PIPE, text=True)
        self.root = f"http://127.0.0.1:{int(self.process.stdout.readline())}"
        self.url = f"{self.root}/v1"

    def counts(self) -> dict:
        """Return what the service has seen."""
        with urllib.request.urlopen(f"{self.root}/counts") as reply:
            return json.load(reply)

    def fail(self, share: float, *kinds: str) -> None:
        """Let a share of the requests fail."""
        data = json.dumps({"share": share, "kinds": kinds, "retry_after": RETRY_AFTER}).encode()
        urllib.request.urlopen(urllib.request.Request(f"{self.root}/faults", data=data)).close()


class Bench:
    """One server, one folder, and the commands that are measured in it."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.server = Server(options.latency)
        self.folder = Path(tempfile.mkdtemp(prefix="bench-of-ddmake-"))

    def close(self) -> None:
        """End the server, and remove the folder."""
        self.server.process.kill()
        shutil.rmtree(self.folder)

    def anew(self) -> None:
        """Begin with an empty folder and a server that has seen nothing."""
        self.close()
        self.__init__(self.options)

    def ddfile(self, parse: str = "") -> None:
        """Write the Ddfile."""
        text = DDFILE.format(n=self.options.prompts, at_once=self.options.at_once, parse=parse)
        (self.folder / "Ddfile").write_text(text)

    def ddmake(self, *words: str) -> list[str]:
        """Return the command that makes all."""
        return [sys.executable, "-m", "ddmake", "-j", "2", f"url={self.server.url}", *words]

    def plain(self, script: str) -> list[str]:
        """Return the command of a script that asks without ddmake."""
        return [sys.executable, "-c", script, self.server.url, str(self.options.prompts), str(self.options.at_once)]

    def run(self, name: str, *commands: list[str]) -> None:
        """Run commands at once, and print what they took together."""
        seen, before = self.server.counts(), resource.getrusage(resource.RUSAGE_CHILDREN)
        pipe, end = os.pipe()
        started = time.perf_counter()
        child = os.fork()
        if not child:  # a process of its own, so that its children's largest is theirs alone
            code = max(process.wait() for process in [self.start(command) for command in commands])
            os.write(end, json.dumps([code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss]).encode())
            os._exit(0)
        os.waitpid(child, 0)
        wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        code, largest = json.loads(os.read(pipe, 100))
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        now = self.server.counts()
        new = {name: now[name] - seen[name] for name in ("requests", "answered_again")}
        told = f"{new['requests']:,} requests, {new['answered_again']:,} answered again"
        end = f"   EXIT {code}" if code else ""
        print(f"{name:<34} {wall:7.2f} s {cpu:7.2f} CPU-s {largest / 1024:6.0f} MB   {told}{end}", flush=True)

    def start(self, command: list[str]) -> subprocess.Popen:
        """Start a command in the folder."""
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, cwd=self.folder, env=env, start_new_session=True,
                                stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)

    def lost(self) -> int:
        """Return how many rows have no answer."""
        from datasets import load_from_disk

        return load_from_disk(str(self.folder / "said"))["said"][:].count(None)


def cold(bench: Bench) -> None:
    """Ask all, nothing being known."""
    bench.run("bare aiohttp", bench.plain(BARE))
    bench.run("aiohttp + SQLite", bench.plain(CACHED))
    bench.ddfile()
    bench.run("ddmake", bench.ddmake())


def cached(bench: Bench) -> None:
    """Make it again, all being known."""
    bench.ddfile()
    subprocess.run(bench.ddmake(), cwd=bench.folder, check=True, capture_output=True)
    bench.run("ddmake again: at rest", bench.ddmake())
    bench.run("ddmake --force: from the cache", bench.ddmake("--force", "said"))


def parser(bench: Bench) -> None:
    """A rule made again wholly from the cache, since its parser changed: rows a second inside of its job."""
    bench.options.prompts, before = 10 * bench.options.prompts, bench.options.prompts
    bench.ddfile()
    subprocess.run(bench.ddmake(), cwd=bench.folder, check=True, capture_output=True)
    bench.ddfile(", parse=lambda text, row: text.lower()")
    bench.run(f"ddmake, parser changed ({bench.options.prompts:,} rows)", bench.ddmake())
    command = [sys.executable, "-m", "ddmake", "log", "--json", "said"]
    told = subprocess.run(command, cwd=bench.folder, capture_output=True, text=True).stdout
    seconds = json.loads(told)["results"][0]["seconds"]
    print(f"{'':<34} {bench.options.prompts / seconds:,.0f} rows/s in the job, {seconds} s")
    bench.options.prompts = before


def kill(bench: Bench) -> None:
    """Kill all processes halfway, and run again."""
    bench.ddfile()
    running = bench.start(bench.ddmake())
    while bench.server.counts()["answered"] < bench.options.prompts // 2:
        time.sleep(0.02)
    for process in _tree(running.pid):
        os.kill(process, signal.SIGKILL)
    running.wait()
    bench.run("ddmake after kill -9 halfway", bench.ddmake())
    twice = bench.server.counts()["answered_again"]
    print(f"{'':<34} {twice} sent twice, of {bench.options.at_once} in flight at most; {bench.lost()} rows lost")


def _tree(root: int) -> list[int]:
    import psutil

    return [process.pid for process in psutil.Process(root).children(recursive=True)] + [root]


def faulty(*kinds: str) -> Callable[[Bench], None]:
    """Return a scenario in which a tenth of the requests fail in these ways."""
    def scenario(bench: Bench) -> None:
        bench.server.fail(0.1, *kinds)
        bench.run("aiohttp + SQLite", bench.plain(CACHED))
        bench.anew()
        bench.server.fail(0.1, *kinds)
        bench.ddfile()
        bench.run("ddmake", bench.ddmake())
        print(f"{'':<34} {bench.lost()} rows lost")

    return scenario


def equal(bench: Bench) -> None:
    """Ask what is mostly equal."""
    bench.ddfile()
    bench.run("ddmake, 1,000 prompts, 10 differ", bench.ddmake("n=1000", "differ=10"))


def two(bench: Bench) -> None:
    """Run two heads at once that ask the same."""
    bench.ddfile()
    words = ("n=1000", "differ=10")
    bench.run("two of them at once", bench.ddmake("--into", "a", *words), bench.ddmake("--into", "b", *words))


def echo(bench: Bench) -> None:
    """Make many rows in bounded memory."""
    (bench.folder / "Ddfile").write_text(ECHO.format(n=bench.options.echo))
    bench.run(f"ddmake, {bench.options.echo:,} rows by echo", [sys.executable, "-m", "ddmake"])


SCENARIOS = {"cold": cold, "cached": cached, "parser": parser, "kill": kill, "faults": faulty("429", "500"), "cut": faulty("cut"),
             "equal": equal, "two": two, "echo": echo}


def main() -> None:
    """Run the scenarios that are asked for."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("scenarios", nargs="*", default=list(SCENARIOS), metavar="scenario")
    options.add_argument("--prompts", type=int, default=2000)
    options.add_argument("--at-once", type=int, default=100)
    options.add_argument("--latency", type=float, default=0.05)
    options.add_argument("--echo", type=int, default=1_000_000)
    given = options.parse_args()
    for name in given.scenarios:
        print(f"-- {name}", flush=True)
        bench = Bench(given)
        try:
            SCENARIOS[name](bench)
        finally:
            bench.close()


if __name__ == "__main__":
    main()
