"""Stands in for Weights & Biases: what it is told goes to a file. FAKE_WANDB says what is wrong with it.

As with the real one there is one run that all code shares, unless one is asked for that is new.
"""

import json
import os
import threading
from types import SimpleNamespace


class errors:  # noqa: N801
    class Error(Exception):
        pass


class Settings:
    def __init__(self, **given):
        self.given = given


run = None


def write(event, **told):
    with open(os.environ["FAKE_TOLD"], "a") as file:
        file.write(json.dumps({"event": event, **told}) + "\n")


class Run:
    def __init__(self, ident, name, mode):
        self.id, self.name, self.dir, self.mode = ident, name, f"wandb/{mode}-run-{ident}/files", mode

    def log(self, noted, step):
        if os.environ.get("FAKE_WANDB") == "fails":
            raise RuntimeError("the disk is full")
        if os.environ.get("FAKE_WANDB") == "hangs":
            threading.Event().wait()
        write("wandb.log", id=self.id, step=step, noted=noted)

    def finish(self, exit_code):
        write("wandb.finish", id=self.id, code=exit_code, pid=os.getpid())


def init(*, project, name, id, resume, config, dir, mode, settings):  # noqa: A002
    global run
    if os.environ.get("FAKE_WANDB") == "unreached" and mode != "offline":
        raise errors.Error("no answer\nfrom there")
    found = run or Run(id, name, mode or "online")
    if settings.given.get("reinit") != "create_new":
        run = found
    write("wandb.init", id=found.id, name=name, project=project, resume=resume, config=config, dir=dir, mode=mode,
          settings=settings.given)
    return found


def setup():
    return SimpleNamespace(settings=SimpleNamespace(mode=os.environ.get("WANDB_MODE", "online")))


def login(*, prompt=True):
    if prompt:
        raise AssertionError("it would ask at a terminal")
    return "WANDB_API_KEY" in os.environ


def teardown():
    write("wandb.teardown")
