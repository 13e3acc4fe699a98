"""What a recipe adds to the time of its calls: each beside bare requests with the same bodies, to a server that takes 50 ms.

    python benchmarks/recipes.py [--rows 2000] [--at-once 20]

The server's own count of bodies is sent again by bare aiohttp, as many at once. Seconds are those of the rule's job as its
trace has them, without ddmake's start; compare ratios within one run.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import aiohttp

SERVER = Path(__file__).parent.parent / "tests" / "fake_openai.py"
DDFILE = """\
from ddmake import *
from ddmake.rules import *

cfg = config(n=0, url="", at_once=1)
model = llm("openai/mock", base_url=cfg.url, concurrency=cfg.at_once, temperature=0.7)

@step("rows")
def rows(n=cfg.n):
    yield from ({"question": f"Question {i}: what does a transformer attend to?", "a": f"To {i}.", "b": f"To all but {i}.",
                 "answer": f"To {i}."} for i in range(n))

@step("examples")
def examples():
    yield from ({"question": f"What is {i} + {i}?", "answer": f"{2 * i}"} for i in range(40))

transform("transform", rows, llm=model, prompt="{{ question }}", column="said")
few_shot("few_shot", rows.remove("answer"), examples, llm=model, inputs="question", k=5, instruction="Answer.", column="said")
judge_pairs("judge_pairs", rows, llm=model)
keep_if("keep_if", rows, llm=model, prompt="Is it about attention? {{ question }}", when=len)
"""
NAMES = ("transform", "few_shot", "judge_pairs", "keep_if")


def counts(url: str, bodies: int) -> dict:
    """Return what the server has seen."""
    return json.load(urllib.request.urlopen(f"{url}/counts?bodies={bodies}"))


async def bare(url: str, bodies: list[dict], at_once: int) -> float:
    """Send bodies, so many at once, and return the seconds that it takes."""
    todo, start = iter(bodies), time.perf_counter()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        async def work() -> None:
            for body in todo:
                async with session.post(f"{url}/v1/chat/completions", json=body) as reply:
                    json.loads(await reply.read())["choices"]
        await asyncio.gather(*[work() for _ in range(at_once)])
    return time.perf_counter() - start


def main() -> None:
    """Print a line for each recipe: the seconds of its job, of bare requests, and their ratio."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--at-once", type=int, default=20)
    asked = parser.parse_args()
    server = subprocess.Popen([sys.executable, str(SERVER), "0.05"], stdout=subprocess.PIPE, text=True)
    url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
    try:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "Ddfile").write_text(DDFILE, encoding="utf-8")
            knobs = [f"n={asked.rows}", f"url={url}/v1", f"at_once={asked.at_once}"]
            ddmake = [sys.executable, "-m", "ddmake"]
            subprocess.run([*ddmake, "rows", "examples", *knobs], cwd=folder, check=True, capture_output=True)
            for name in NAMES:
                for path, told in (("reset", {}), ("faults", {"say": "A"})):  # a verdict, for those that look for one
                    urllib.request.urlopen(urllib.request.Request(f"{url}/{path}", json.dumps(told).encode()))
                subprocess.run([*ddmake, name, *knobs], cwd=folder, check=True, capture_output=True)
                bodies = counts(url, asked.rows)["bodies"]
                seconds = asyncio.run(bare(url, bodies, asked.at_once))
                card = json.loads(subprocess.check_output([*ddmake, "cards", name, "--json"], cwd=folder))
                took = card["data_card"][name]["seconds"]
                print(f"{name:12} {took:6.2f} s  bare {seconds:6.2f} s  {took / seconds:.2f} x  ({len(bodies):,} requests)")
    finally:
        server.kill()


if __name__ == "__main__":
    main()
