"""Batches: handed over once, whatever happens, and collected by whoever comes next."""

import asyncio
import hashlib
import json
import subprocess
import sys
import time
import urllib.request
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest
from aiohttp.test_utils import TestServer
from fake_batches import Fake, application

from ddmake.backends.base import Request
from ddmake.backends.batches import open_batches
from ddmake.calls.batchbook import Book
from ddmake.calls.batching import Batcher
from ddmake.calls.cache import Calls
from ddmake.ddfile.specs import LLM
from ddmake.errors import ProviderError

PROVIDERS = ("openai", "mistral", "anthropic")
TEXTS = ("one", "two", "three")
ADDRESS = {"openai": ("OPENAI_BASE_URL", "/v1"), "mistral": ("MISTRAL_API_BASE", "/v1"), "anthropic": ("ANTHROPIC_API_BASE", "")}


class Killed(BaseException):
    """The process is gone."""


class Desk:
    """The caller's side: keeps what comes in calls.db, as late as it may, so that a kill loses what isn't kept."""

    def __init__(self, calls):
        self.calls, self.came, self.notes, self.waiting = calls, [], [], {}

    def deliver(self, key, request, answer, rule):
        assert rule == "rule"
        if answer.error is None:
            self.came.append((key, request, answer))
        if key in self.waiting:
            self.waiting.pop(key).set_result(answer)

    def refuse(self, keys, error):
        for key in keys:
            self.waiting.pop(key).set_exception(error)

    async def kept(self):
        for key, request, answer in self.came:
            self.calls.put(key, request, answer)
        while {key for key, _, _ in self.came} - set(self.calls.get(key for key, _, _ in self.came)):
            await asyncio.sleep(0.001)
        self.came = []

    def known(self, keys):
        return self.calls.get(keys)

    def tell(self, note):
        self.notes.append(note)


def key_of(text):
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def request_of(text):
    return Request(({"role": "user", "content": text},))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("ddmake.calls.cache.FLUSH_SECONDS", 0.001)
    for name in ("OPENAI_API_KEY", "MISTRAL_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, "sk-secret")


@pytest.fixture
def fake():
    return Fake()


@asynccontextmanager
async def serving(fake, monkeypatch):
    server = TestServer(application(fake))
    await server.start_server()
    for variable, path in ADDRESS.values():
        monkeypatch.setenv(variable, f"http://127.0.0.1:{server.port}{path}")
    async with aiohttp.ClientSession() as session:
        yield session
    await server.close()


class Run:
    """One run of a caller process on a project, with what it does to its book and its provider told to `step`."""

    def __init__(self, folder, session, provider="openai", step=lambda point: None, **options):
        spec = LLM(f"{provider}/toy", max_tokens=9)
        self.calls = Calls(folder)
        self.book = Book(self.calls.path)
        self.desk = Desk(self.calls)
        self.service = open_batches(spec, session)
        for what, names in ((self.book, ("open", "uploaded", "trying", "created", "strike")), (self.desk, ("deliver",))):
            for name in names:
                setattr(what, name, stepped(getattr(what, name), name, step))
        for what, names in ((self.service, ("upload", "create", "find", "state")), (self.desk, ("kept",))):
            for name in names:
                setattr(what, name, stepped_slowly(getattr(what, name), name, step))
        self.batcher = Batcher(self.book, self.service, self.desk, spec.name, **{"first": 0.002, "grace": 0.01, **options})

    async def ask(self, *texts):
        """Ask for answers to texts, and return them."""
        asked = []
        for text in texts:
            asked.append(self.desk.waiting.setdefault(key_of(text), asyncio.get_running_loop().create_future()))
            await self.batcher.add(key_of(text), request_of(text), "rule")
        await self.batcher.flush()
        return await asyncio.gather(*asked)

    async def end(self):
        await self.batcher.stop()
        self.calls.close()
        self.book.db.close()


def stepped(do, name, step):
    def wrapped(*args):
        step(f"before {name}")
        found = do(*args)
        step(f"after {name}")
        return found

    return wrapped


def stepped_slowly(do, name, step):
    async def wrapped(*args):
        step(f"before {name}")
        found = await do(*args)
        step(f"after {name}")
        return found

    return wrapped


async def one_run(folder, fake, monkeypatch, *texts, **options):
    async with serving(fake, monkeypatch) as session:
        run = Run(folder, session, **options)
        try:
            return await asyncio.wait_for(run.ask(*texts), 20), run
        finally:
            await run.end()


@pytest.fixture
def ask(tmp_path, fake, monkeypatch):
    """Ask for answers to texts in a run of its own; return them and the run."""
    return lambda *texts, **options: asyncio.run(one_run(tmp_path, fake, monkeypatch, *texts, **options))


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_batch_answers_all(ask, fake, tmp_path, provider):
    answers, run = ask(*TEXTS, provider=provider)
    assert answers == ["ONE", "TWO", "THREE"]
    assert [(answer.finish_reason, answer.tokens_in, answer.error) for answer in answers] == [("stop", 5, None)] * 3
    assert len(fake.jobs) == 1
    assert any("batch of 3 at" in note and "in progress" in note for note in run.desk.notes)
    calls = Calls(tmp_path)
    assert calls.get(map(key_of, TEXTS))[key_of("two")] == "TWO", "they are kept under the calls' own keys"
    assert not Book(calls.path).open_ones(run.service.account, run.batcher.llm)
    assert not list(run.book.folder.iterdir()), "no lock is left lying"


async def killed_at(place, folder, fake, monkeypatch, provider):
    """Make a run that is killed at its n-th step, then another; return the name of the step, None where there was none."""
    steps = []

    def step(point):
        steps.append(point)
        if point == "before strike":
            assert set(map(key_of, TEXTS)) <= set(Calls(folder).get(map(key_of, TEXTS))), "struck out before its answers are on disk"
        if len(steps) > place:
            raise Killed

    async with serving(fake, monkeypatch) as session:
        first = Run(folder, session, provider, step)
        asking = asyncio.ensure_future(first.ask(*TEXTS))
        while len(steps) <= place and not (asking.done() and not first.batcher._tasks):
            await asyncio.sleep(0.001)
        for task in (*first.batcher._tasks.values(), asking):
            task.cancel()
        await asyncio.sleep(0)
        with suppress(BaseException):
            await asking
        await first.end()
        second = Run(folder, session, provider)
        assert await asyncio.wait_for(second.ask(*TEXTS), 20) == ["ONE", "TWO", "THREE"]
        await second.end()
    return steps[place] if len(steps) > place else None


@pytest.mark.parametrize("provider", PROVIDERS)
def test_killed_at_any_step_the_next_run_submits_nothing_twice(tmp_path, monkeypatch, provider):
    places = []
    while not places or places[-1]:
        fake = Fake()
        places.append(asyncio.run(killed_at(len(places), tmp_path / str(len(places)), fake, monkeypatch, provider)))
        assert len(fake.jobs) == 1, f"killed {places[-1]}"
    steps = {"open", "trying", "create", "created", "state", "deliver", "kept", "strike"}
    assert {f"{when} {step}" for step in steps for when in ("before", "after")} <= set(places)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_job_whose_reply_is_lost_is_found(ask, fake, provider):
    fake.settings |= {"lost": 1, "hidden": 2}
    assert ask(*TEXTS, provider=provider, grace=0.2)[0] == ["ONE", "TWO", "THREE"]
    assert len(fake.jobs) == 1


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_refused_job_is_created_again(ask, fake, provider):
    fake.settings["refused"] = 2
    assert ask("one", provider=provider)[0] == ["ONE"]
    assert len(fake.jobs) == 1


def test_a_job_that_may_be_there_is_not_given_up(ask, fake):
    """The reply is lost, and then the key is refused: the next run still looks for the job."""
    def step(point):
        if point == "before find":
            fake.settings["unauthorized"] = 1

    fake.settings["lost"] = 1
    with pytest.raises(ProviderError, match="401"):
        ask("one", step=step)
    assert ask("one")[0] == ["ONE"]
    assert len(fake.jobs) == 1


def test_what_can_not_be_submitted_is_told_and_costs_nothing(ask, fake):
    fake.settings["refused"] = 100
    with pytest.raises(ProviderError, match="openai/toy: a batch could not be submitted in 8 tries: 503: busy"):
        ask("one")
    fake.settings["refused"] = 0
    assert ask("one")[0] == ["ONE"]
    assert len(fake.jobs) == 1


@pytest.mark.parametrize("provider", PROVIDERS)
def test_what_becomes_of_single_requests(ask, fake, provider):
    texts = ("fine", "a bad one", "it expires", "it falls over", "it always expires")
    answers, run = ask(*texts, provider=provider)
    assert answers[0] == "FINE" and answers[2:4] == ["IT EXPIRES", "IT FALLS OVER"]
    assert "no luck: bad" in answers[1].error
    assert "expired" in answers[4].error
    assert [len(job["requests"]) for job in fake.jobs.values()] == [5, 3], "what may pass goes into one more batch"
    assert not run.batcher.wanted


@pytest.mark.parametrize("provider", PROVIDERS)
def test_results_that_are_cut_are_read_again(ask, fake, provider):
    fake.settings["cut"] = 2
    assert ask(*TEXTS, provider=provider)[0] == ["ONE", "TWO", "THREE"]
    assert len(fake.jobs) == 1


@pytest.mark.parametrize("limit", [{"most": 2}, {"most_bytes": 200}])
def test_many_requests_are_several_batches(ask, fake, monkeypatch, limit):
    for name, value in limit.items():
        monkeypatch.setattr(f"ddmake.backends.batches.openai.OpenAI.{name}", value)
    assert ask("1", "2", "3", "4", "5")[0] == ["1", "2", "3", "4", "5"]
    assert sorted(len(job["requests"]) for job in fake.jobs.values()) == [1, 2, 2]


def test_a_batch_that_is_too_much_is_halved(ask, fake):
    fake.settings["most"] = 2
    assert ask("1", "2", "3", "4", "5")[0] == ["1", "2", "3", "4", "5"]
    assert [len(job["requests"]) for job in fake.jobs.values()] == [5, 2, 2, 1]


def test_a_batch_that_fails_stops_who_waits(ask, fake):
    fake.settings["most"] = 0
    with pytest.raises(ProviderError, match="openai/toy: the batch job-0 failed: too many"):
        ask("one")
    fake.settings["most"] = 9
    assert ask("one")[0] == ["ONE"], "the next run submits it again"


def test_a_batch_goes_on_while_nobody_runs(tmp_path, fake, monkeypatch):
    """A run that is stopped leaves its batch open; the next one collects it, whatever else it asks."""
    async def stopped():
        async with serving(fake, monkeypatch) as session:
            run = Run(tmp_path, session)
            asking = asyncio.ensure_future(run.ask(*TEXTS))
            while not fake.calls["GET /v1/batches/job-0"]:
                await asyncio.sleep(0.001)
            asking.cancel()
            await run.end()
            assert not fake.jobs["job-0"].get("cancelled")
            monkeypatch.setattr(fake, "settings", {**fake.settings, "looks": 1})
            again = Run(tmp_path, session)
            assert await asyncio.wait_for(again.ask("two", "four"), 20) == ["TWO", "FOUR"]
            while again.book.open_ones(again.service.account, "openai/toy"):
                await asyncio.sleep(0.001)
            assert set(again.calls.get(map(key_of, TEXTS))) == set(map(key_of, TEXTS)), "what nobody asks for now is kept as well"
            await again.end()

    fake.settings["looks"] = 20
    asyncio.run(stopped())
    assert [len(job["requests"]) for job in fake.jobs.values()] == [3, 1]


def test_two_processes_share_a_batch(tmp_path, fake, monkeypatch):
    async def both():
        async with serving(fake, monkeypatch) as session:
            runs = [Run(tmp_path, session), Run(tmp_path, session)]
            found = await asyncio.wait_for(asyncio.gather(runs[0].ask("one", "two"), runs[1].ask("two", "three")), 20)
            for run in runs:
                await run.end()
            return found

    assert asyncio.run(both()) == [["ONE", "TWO"], ["TWO", "THREE"]]
    assert [len(job["requests"]) for job in fake.jobs.values()] == [2, 1]


def test_a_batch_is_taken_over_from_a_process_that_ends(tmp_path, fake, monkeypatch):
    async def both():
        async with serving(fake, monkeypatch) as session:
            first, second = Run(tmp_path, session), Run(tmp_path, session)
            asking = asyncio.ensure_future(first.ask("one"))
            while not fake.jobs:
                await asyncio.sleep(0.001)
            waiting = asyncio.ensure_future(second.ask("one"))
            await asyncio.sleep(0.02)
            asking.cancel()
            await first.end()
            fake.settings["looks"] = 0
            assert await asyncio.wait_for(waiting, 20) == ["ONE"]
            await second.end()

    fake.settings["looks"] = 10**6
    asyncio.run(both())
    assert len(fake.jobs) == 1


def test_a_wrong_key_is_told_without_it(ask, fake):
    fake.settings["unauthorized"] = 1
    with pytest.raises(ProviderError, match='openai/toy answered 401: "invalid key …"'):
        ask("one")
    assert ask("one")[0] == ["ONE"]


def test_a_wrong_key_while_waiting_loses_nothing(ask, fake):
    def step(point):
        if point == "before state":
            fake.settings["unauthorized"] = 1

    with pytest.raises(ProviderError, match="401"):
        ask("one", step=step)
    assert ask("one")[0] == ["ONE"]
    assert len(fake.jobs) == 1


def test_a_batch_of_another_key_is_not_submitted_again(tmp_path, fake, monkeypatch):
    async def two_keys():
        async with serving(fake, monkeypatch) as session:
            first = Run(tmp_path, session)
            asking = asyncio.ensure_future(first.ask("one"))
            while not fake.calls["GET /v1/batches/job-0"]:
                await asyncio.sleep(0.001)
            asking.cancel()
            await first.end()
            monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
            fake.settings["gone"] = 100
            second = Run(tmp_path, session)
            with pytest.raises(ProviderError, match="the batch job-0 was handed over with another API key"):
                await asyncio.wait_for(second.ask("one"), 20)
            await second.end()

    fake.settings["looks"] = 100
    asyncio.run(two_keys())
    assert len(fake.jobs) == 1


def test_a_batch_that_the_provider_has_forgotten_is_made_again(ask, fake):
    fake.settings["gone"] = 1
    assert ask("one", grace=-1.0)[0] == ["ONE"]
    assert len(fake.jobs) == 2


def test_it_is_handed_over_when_nothing_more_comes(tmp_path, fake, monkeypatch):
    async def unflushed():
        async with serving(fake, monkeypatch) as session:
            run = Run(tmp_path, session, idle=0.01)
            run.batcher.flush = lambda: asyncio.sleep(0)
            assert await asyncio.wait_for(run.ask("one"), 20) == ["ONE"]
            await run.end()

    asyncio.run(unflushed())


def test_what_nobody_waits_for_any_more_is_left_out(tmp_path, fake, monkeypatch):
    async def dropped():
        async with serving(fake, monkeypatch) as session:
            run = Run(tmp_path, session)
            await run.batcher.add(key_of("one"), request_of("one"), "rule")
            run.batcher.drop(key_of("one"))
            assert await asyncio.wait_for(run.ask("two"), 20) == ["TWO"]
            await run.end()

    asyncio.run(dropped())
    assert [len(job["requests"]) for job in fake.jobs.values()] == [1]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_batch_that_is_cancelled_is_not_submitted_again(tmp_path, fake, monkeypatch, provider):
    async def cancelled():
        async with serving(fake, monkeypatch) as session:
            run = Run(tmp_path, session, provider)
            asking = asyncio.ensure_future(run.ask("one"))
            while not fake.jobs:
                await asyncio.sleep(0.001)
            await run.service.cancel("job-0")
            answers = await asyncio.wait_for(asking, 20)
            await run.end()
            return answers[0].error

    fake.settings["looks"] = 10**6
    assert asyncio.run(cancelled()) == "the batch was cancelled at the provider"
    assert len(fake.jobs) == 1


@pytest.fixture
def server(monkeypatch):
    """The fake in a process of its own; returns what asks it."""
    process = subprocess.Popen([sys.executable, str(Path(__file__).with_name("fake_batches.py"))], stdout=subprocess.PIPE, text=True)
    root = f"http://127.0.0.1:{int(process.stdout.readline())}"
    monkeypatch.setenv("DDMAKE_BATCH_POLL", "0.05")
    for variable, path in ADDRESS.values():
        monkeypatch.setenv(variable, f"{root}{path}")

    def ask(**settings):
        data = json.dumps(settings).encode() if settings else None
        with urllib.request.urlopen(urllib.request.Request(f"{root}/{'settings' if settings else 'counts'}", data=data)) as reply:
            return json.load(reply)

    yield ask
    process.kill()
    process.wait()


RULES = """
    @step("rows")
    def rows():
        yield from ({{"x": f"word {{i}}"}} for i in range(600))

    transform("said", rows, llm=llm("openai/toy", max_tokens=9{batch}), column="said", prompt="Say {{{{ x }}}}")
"""


def test_a_rule_is_one_batch_under_the_same_keys(project, server):
    project.ddfile(RULES.format(batch=", batch=True")).make()
    assert project.rows("said")[599]["said"] == "SAY WORD 599"
    assert server()["jobs"] == [600], "all that a rule asks goes into one batch"
    project.ddfile(RULES.format(batch=""))
    assert project.run("-q").code == 0, "batch is in no key"
    project.ddfile(RULES.format(batch="").replace('column="said"', 'column="told"'))
    assert "600 cached" in project.make().output, "and its answers are anybody's"
    assert server()["jobs"] == [600]


def test_a_run_that_is_killed_is_gone_on_with(project, server):
    server(looks=10**6)
    project.ddfile(RULES.format(batch=", batch=True"))
    process = project.command("said")
    while not server()["jobs"]:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)
    process.kill()
    process.wait()
    server(looks=0)
    project.make("said")
    assert (server()["jobs"], server()["asked_again"]) == ([600], 0)
    assert len(project.rows("said")) == 600


def test_a_provider_without_batches_is_told(project, monkeypatch):
    monkeypatch.setenv("DEEPSEEK_API_KEY", "sk-secret")
    result = project.ddfile('generate("g", llm=llm("deepseek/chat", batch=True), prompt="x", n=2)').run()
    assert result.code != 0
    assert "batch=True isn't offered there" in result.output
