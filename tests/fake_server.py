"""A server as ddmake would start one, for tests: `python fake_server.py MODEL --host HOST --port PORT [flags]`.

It says the last message in capitals. Each start adds a line of JSON to starts.jsonl in the current directory: its pid, its
parent's, its child's (a process that sleeps), the words of its command line, and which of the earlier ones live.

    --slow SECONDS     ready after so long
    --broken           says why on its standard error, and ends with code 3
    --dies N           ends at the Nth request; its successors don't
    --dies-again N     so do they
    --babbles          as --broken, after a long line, with control characters in its words
    --usurped          ends after two seconds, and another process then answers at its port
    --says NAME        calls its model so
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

STARTS = Path("starts.jsonl")
parser = argparse.ArgumentParser()
for name, kind in (("--host", str), ("--port", int), ("--slow", float), ("--dies", int), ("--dies-again", int)):
    parser.add_argument(name, type=kind, default=0)
parser.add_argument("--says")
for name in ("--broken", "--babbles", "--usurped"):
    parser.add_argument(name, action="store_true")
told = parser.parse_known_args()[0]
began = time.monotonic()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return True
    except ProcessLookupError:
        return False


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    asked = 0

    def do_GET(self) -> None:
        while told.usurped and alive(own):
            time.sleep(0.02)
        time.sleep(0.5 if told.usurped else 0)
        ready = self.path == "/health" and time.monotonic() - began >= told.slow
        self.reply(200 if ready else 503, {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Handler.asked += 1
        if Handler.asked == (told.dies_again or (told.dies if first else -1)):
            os._exit(1)
        text = body["messages"][-1]["content"].upper()
        self.reply(200, {"model": told.says or body["model"], "choices": [{"message": {"content": text}, "finish_reason": "stop"}],
                         "usage": {"prompt_tokens": 3, "completion_tokens": 2}})

    def reply(self, status: int, content: dict) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


before = [json.loads(line)["pid"] for line in STARTS.read_text().splitlines()] if STARTS.exists() else []
first = not before
child = subprocess.Popen(["sleep", "600"])
with STARTS.open("a") as starts:
    line = {"pid": os.getpid(), "keeper": os.getppid(), "child": child.pid, "words": sys.argv[1:], "alive": [p for p in before if alive(p)]}
    starts.write(json.dumps(line) + "\n")
if told.broken:
    sys.stderr.write("Traceback (most recent call last):\nMemoryError: no room for the model\n")
    sys.exit(3)
if told.babbles:
    sys.stderr.write("x" * 200_000 + "\n\x1b[31mthe\x07 end\x1b[0m\n")
    sys.exit(3)
own = os.getpid()
if told.usurped:
    if os.fork():
        time.sleep(2)
        os._exit(3)
    os.setsid()  # so that it isn't ended with the server
    threading.Timer(15, os._exit, (0,)).start()
ThreadingHTTPServer((told.host, told.port), Handler).serve_forever()
