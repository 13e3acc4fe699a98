"""Limits of an account: who may send, and when. Services are simulated on a clock that jumps, so nothing sleeps."""

import asyncio
import math
import random
import time
from collections import Counter
from dataclasses import dataclass, field

import pytest

from ddmake.calls import headers
from ddmake.calls.flow import Flow, retry_delay


class Clock(asyncio.SelectorEventLoop):
    """An event loop whose time jumps to what is due next."""

    def __init__(self):
        super().__init__()
        self.now, look = 0.0, self._selector.select

        def select(timeout=None):
            assert timeout is not None, "everybody waits, and nothing is due"
            self.now += timeout
            return look(0)

        self._selector.select = select

    def time(self):
        return self.now


@pytest.fixture
def run():
    """Run a coroutine to its end on a clock that jumps, and return its value."""
    random.seed(1)
    loop = Clock()
    yield loop.run_until_complete
    loop.close()


def now():
    return asyncio.get_running_loop().time()


@dataclass
class Service:
    """What answers every request after `latency` seconds, give or take; the others refuse some of them."""

    latency: float = 0.05
    spread: float = 0.3
    rng: random.Random = field(default_factory=lambda: random.Random(7))

    def refuses(self):
        """Return a status and headers, or None."""

    async def ask(self):
        refused = self.refuses()
        if refused:
            await asyncio.sleep(0.005)
            return refused
        told = self.headers()
        await asyncio.sleep(self.latency * math.exp(self.rng.gauss(0, self.spread)))
        self.done()
        return 200, told, None

    def headers(self):
        return {}

    def done(self):
        pass


@dataclass
class Faulty(Service):
    """Fails a share at random: 429 with Retry-After, 500, or no reply at all."""

    statuses: tuple = (429, 500)
    share: float = 0.1
    spread: float = 0.0

    def refuses(self):
        if self.rng.random() < self.share:
            status = self.rng.choice(self.statuses)
            return status, {}, 1.0 if status == 429 else None


@dataclass
class Minutely(Service):
    """Takes 600 requests a minute by a bucket of `burst`, which may tell how much is in it."""

    burst: float = 600.0
    tells: bool = False
    wait: float | None = None

    def __post_init__(self):
        self.level, self.at = self.burst, 0.0

    def refuses(self):
        self.level, self.at = min(self.burst, self.level + 10 * (now() - self.at)), now()
        if self.level < 1:
            return 429, self.headers(), self.wait
        self.level -= 1

    def headers(self):
        return {"X-RateLimit-Limit-Requests": f"{self.burst:.0f}", "X-RateLimit-Remaining-Requests": f"{int(self.level)}",
                "X-RateLimit-Reset-Requests": f"{(self.burst - self.level) / 10:.3f}s"} if self.tells else {}


@dataclass
class Window(Service):
    """Takes 600 requests in each minute of the clock, and tells how many are left."""

    def __post_init__(self):
        self.taken = Counter()

    def refuses(self):
        self.taken[now() // 60] += 1
        if self.taken[now() // 60] > 600:
            return 429, self.headers(), None

    def headers(self):
        return {"ratelimit-limit": "600, 600;w=60", "ratelimit-remaining": str(max(0, 600 - self.taken[now() // 60])),
                "ratelimit-reset": str(math.ceil(60 - now() % 60))}


@dataclass
class Places(Service):
    """Works on 20 requests at once, and refuses more."""

    places: int = 20
    busy: int = 0

    def refuses(self):
        if self.busy >= self.places:
            return 429, {}, None
        self.busy += 1

    def done(self):
        self.busy -= 1


@dataclass
class Down(Service):
    """Is down from the 2nd to the 30th second."""

    def refuses(self):
        if 2 <= now() < 30:
            return 503, {}, None


@dataclass
class Drive:
    """Many requests, each tried until it is answered; what they met."""

    service: Service
    requests: int
    concurrency: int | None = None
    rpm: int | None = None
    met: Counter = field(default_factory=Counter)
    sent: list = field(default_factory=list)
    ended: float = 0.0
    in_flight: int = 0
    most: int = 0

    @property
    def refused(self):
        """Return the share of requests that was refused."""
        return self.met[429] / self.met.total()

    async def go(self, flow=None):
        flow, rng, ahead = flow or Flow(), random.Random(3), asyncio.Semaphore(1000)
        flow.state(self.concurrency, self.rpm)

        async def one():
            async with ahead:
                for attempt in range(1000):
                    await flow.enter()
                    self.sent.append(now())
                    self.in_flight += 1
                    self.most = max(self.most, self.in_flight)
                    status, told, wait = await self.service.ask()
                    self.in_flight -= 1
                    self.met[status] += 1
                    flow.heard(status, told)
                    flow.leave(status, wait=wait)
                    if status == 200:
                        return
                    await asyncio.sleep(retry_delay(attempt, wait, rng))

        await asyncio.gather(*(one() for _ in range(self.requests)))
        self.ended = now()
        return self


async def alone(service, requests, places):
    """Return the seconds that requests take where who fails waits alone, and keeps its place."""
    rng, gate = random.Random(3), asyncio.Semaphore(places)

    async def one():
        async with gate:
            for attempt in range(1000):
                status, _, wait = await service.ask()
                if status == 200:
                    return
                await asyncio.sleep(wait or min(0.25 * 2**attempt, 10) * rng.uniform(0.5, 1))

    await asyncio.gather(*(one() for _ in range(requests)))
    return now()


@pytest.mark.parametrize("share", [0.1, 0.2, 0.3, 0.5])
@pytest.mark.parametrize("statuses", [(429, 500), (429,), (500,), (429, 500, None, None)])
@pytest.mark.parametrize("requests, places", [(2000, 100), (400, 20)])
def test_refusals_by_chance_slow_nobody_else(run, requests, places, statuses, share):
    """A share fails at random: no slower than half as much again as where those alone wait."""
    began = run(alone(Faulty(statuses=statuses, share=share), requests, places))
    drive = run(Drive(Faulty(statuses=statuses, share=share), requests, concurrency=places).go())
    assert drive.ended - began <= 1.5 * began
    assert places / 2 < drive.most <= places


def test_a_limit_is_found_though_many_are_refused_by_chance(run):
    """600 a minute, and every fifth refused besides: what the limit allows is used, and no more than twice as many sent."""
    class Both(Minutely):
        def refuses(self):
            return (429, {}, None) if self.rng.random() < 0.2 else super().refuses()

    drive = run(Drive(Both(), 2600).go())
    assert drive.requests >= 0.85 * (600 + 10 * drive.ended) - 600
    assert drive.refused < 0.5


@pytest.mark.parametrize("service, rate", [
    (Minutely(burst=600), 10), (Minutely(burst=600, latency=1.0), 10), (Minutely(burst=600, latency=5.0), 10),
    (Minutely(burst=600, wait=1.0), 10), (Minutely(burst=10), 10), (Minutely(burst=10, latency=1.0, wait=1.0), 10),
    (Minutely(burst=600, tells=True), 10), (Minutely(burst=600, tells=True, latency=1.0), 10),
    (Minutely(burst=600, tells=True, latency=5.0), 10), (Window(), 10), (Window(latency=1.0), 10),
], ids=lambda value: "" if value == 10 else f"{type(value).__name__} {value.latency}")
def test_a_limit_that_nobody_stated_is_found_and_used(run, service, rate):
    drive = run(Drive(service, 2600).go())
    by_then = 600 + rate * drive.ended  # what the service allowed, its first burst included
    assert drive.requests >= 0.85 * by_then - 600, drive.ended
    assert drive.refused < (0.01 if getattr(service, "tells", False) else 0.11)


@pytest.mark.parametrize("latency", [0.05, 1.0])
def test_a_limit_on_requests_in_flight_is_found_and_used(run, latency):
    drive = run(Drive(Places(latency=latency), 4000).go())
    mean = latency * math.exp(0.3**2 / 2)
    assert drive.requests / drive.ended >= 0.8 * 20 / mean
    assert drive.refused < 0.1
    last = [at for at in drive.sent if at > drive.ended / 2]
    assert 0.8 * 20 < len(last) * mean / (drive.ended / 2) < 1.25 * 20


def test_a_service_that_is_down_is_hardly_asked_and_then_soon_in_full(run):
    drive = run(Drive(Down(), 6000, concurrency=100).go())
    asked = sum(2.1 < at < 29.9 for at in drive.sent)
    assert asked < 30
    assert drive.ended < 30 + 10 + 4  # the longest pause, and what is left to do


def test_what_is_stated_is_kept_to_in_every_minute(run):
    drive = run(Drive(Service(latency=0.2), 400, rpm=120).go())
    for at in drive.sent:
        assert sum(at <= other < at + 60 for other in drive.sent) <= 120
        assert sum(at <= other < at + 1 for other in drive.sent) <= 3
    assert drive.ended <= 400 / 120 * 60 * 1.05


def test_of_several_that_state_limits_the_smallest_counts(run):
    async def go():
        flow = Flow()
        flow.state(concurrency=8, rpm=60_000)
        flow.state(concurrency=5, rpm=600)
        flow.state(concurrency=20)
        return await Drive(Service(latency=1.0), 60).go(flow)

    drive = run(go())
    assert drive.most == 5


def test_tokens_are_put_right_when_they_are_known(run):
    """120 tokens a minute, 20 thought for each, 2 taken: the next goes as soon as it would have with 2."""
    async def go():
        flow, times = Flow(), []
        flow.state(tpm=120)
        for _ in range(10):
            await flow.enter(20)
            times.append(now())
            flow.leave(200, 2)
        return times

    times = run(go())
    assert 9 * 0.9 < times[-1] < 9 * 1.1 + 1


def test_one_request_of_more_than_a_minutes_tokens_is_sent(run):
    async def go():
        flow = Flow()
        flow.state(tpm=100)
        await flow.enter(1000)
        first = now()
        flow.leave(200, 1000)
        await flow.enter(1)
        return first, now()

    first, second = run(go())
    assert first == 0 and 590 < second < 620


def test_who_waits_is_served_in_turn_and_who_failed_first(run):
    async def go():
        flow, served = Flow(), []
        flow.state(concurrency=1)

        async def one(name, *statuses):
            for status in statuses:
                await flow.enter()
                served.append(name)
                await asyncio.sleep(1)
                flow.leave(status)

        await asyncio.gather(one("a", 429, 200), one("b", 200), one("c", 200), one("d", 200))
        return served

    assert run(go()) == ["a", "b", "a", "c", "d"]  # b was let in when a left


def test_who_asks_for_much_leaves_room_for_who_asks_for_little(run):
    """600 a minute; a has a thousand waiting when b and c come: each has every third turn, and a all when they are done."""
    async def go():
        flow, served = Flow(), []
        flow.state(rpm=600)

        async def one(who):
            await flow.enter(0, who)
            served.append(who)
            flow.leave(200)

        tasks = [asyncio.create_task(one("a")) for _ in range(1000)]
        await asyncio.sleep(1)
        before = len(served)
        tasks += [asyncio.create_task(one(who)) for who in "b" * 20 + "c" * 10]
        await asyncio.gather(*tasks)
        return "".join(served[before:])

    served = run(go())
    assert served.count("b") == 20 and served.rindex("b") in range(48, 54)
    assert served.count("c") == 10 and served.rindex("c") in range(28, 33)


def test_who_gives_up_costs_nobody_a_turn(run):
    async def go():
        flow, served = Flow(), []
        flow.state(rpm=60)

        async def one(who):
            await flow.enter(0, who)
            served.append(who)
            flow.leave(200)

        tasks = [asyncio.create_task(one(who)) for who in ("first", "a", "a", "b", "b", "c")]
        await asyncio.sleep(0.1)
        tasks[1].cancel()
        tasks[5].cancel()
        await asyncio.wait(tasks)
        return served, now()

    served, ended = run(go())
    assert sorted(served[1:3]) == ["a", "b"] and served[3:] == ["b"]
    assert ended == pytest.approx(3 * 61 / 60, abs=0.1)


def test_while_a_service_is_down_no_request_uses_up_its_tries(run):
    """100 wait through ten minutes: none is tried more than a few times."""
    async def go():
        flow, tries = Flow(), Counter()
        flow.state(concurrency=100)

        async def one(name):
            for attempt in range(100):
                await flow.enter()
                await asyncio.sleep(0.05)
                status = 503 if 1 < now() < 600 else 200
                tries[name] += 1
                flow.leave(status)
                if status == 200 and now() > 600:
                    return
                await asyncio.sleep(retry_delay(attempt, None, random) if status != 200 else 0.05)
                if status == 200:
                    tries[name] = 0

        await asyncio.gather(*(one(name) for name in range(100)))
        return max(tries.values()), now()

    tries, ended = run(go())
    assert tries <= 5 and ended < 620


def test_where_nobody_is_there_who_asks_hears_of_it_soon_and_nothing_is_told(run):
    async def go():
        flow, told = Flow("openai"), set()

        async def one():
            for attempt in range(4):
                await flow.enter()
                await asyncio.sleep(0.001)
                flow.leave(None)
                told.add(flow.describe())
                await asyncio.sleep(retry_delay(attempt, None, random))
            return now()

        return min(await asyncio.gather(*(one() for _ in range(200)))), told

    ended, told = run(go())
    assert ended < 3 and told == {None}


def test_who_is_cancelled_leaves_no_hole(run):
    async def go():
        flow = Flow()
        flow.state(concurrency=1, rpm=60)
        await flow.enter()
        waiting = [asyncio.create_task(flow.enter()) for _ in range(3)]
        last = asyncio.create_task(flow.enter())
        await asyncio.sleep(5)
        waiting[0].cancel()
        await asyncio.sleep(0)
        flow.leave(200)  # lets the second in, which is cancelled before it hears of it
        for task in waiting[1:]:
            task.cancel()
        await last
        return now()

    assert run(go()) == pytest.approx(5.0, abs=0.01)


def test_requests_that_we_broke_off_say_nothing_of_the_service(run):
    async def go():
        flow = Flow("openai")

        async def one():
            await flow.enter()
            try:
                await asyncio.sleep(10)
            finally:
                flow.leave(None)

        tasks = [asyncio.create_task(one()) for _ in range(64)]
        await asyncio.sleep(1)
        for task in tasks:
            task.cancel()
        await asyncio.sleep(0)
        began = now()
        await flow.enter()
        return now() - began

    assert run(go()) == 0


def test_what_is_left_is_not_exceeded_before_the_reset(run):
    """Three are left and four are in flight, of which the reply may not know: the next waits for the reset."""
    async def go():
        flow, times = Flow("openai"), []

        async def one(left):
            await flow.enter(10)
            times.append(now())
            await asyncio.sleep(1)
            flow.heard(200, {"ratelimit-remaining": str(left), "ratelimit-reset": "20"})
            await asyncio.sleep(1)
            flow.leave(200)

        await asyncio.gather(*(one(left) for left in (3, 2, 1, 0)))
        asking = asyncio.create_task(one(9))
        await asyncio.sleep(1)  # 18 s before the reset
        told = flow.describe()
        await asking
        return times[-1], told

    at, told = run(go())
    assert at == pytest.approx(21, abs=0.1)
    assert told == "waiting for openai's limit of requests"


@pytest.mark.parametrize("stated, wait, refusals, told", [
    ({}, None, 0, None),
    ({"concurrency": 1}, None, 0, None),
    ({"rpm": 60}, None, 0, "waiting for openai's limit of 60 requests a minute"),
    ({"tpm": 6000}, None, 0, "waiting for openai's limit of 6,000 tokens a minute"),
    ({}, 20.0, 30, "openai asks to wait 20 s"),
    ({}, 1.0, 30, None),
    ({}, None, 30, None),
])
def test_what_is_waited_for_is_told(run, stated, wait, refusals, told):
    async def go():
        flow = Flow("openai")
        flow.state(**stated)
        for _ in range(refusals):
            await flow.enter(0)
            flow.leave(429, wait=wait)
            if flow._room.until:
                break
        for _ in range(70):
            asyncio.create_task(flow.enter(100))
        await asyncio.sleep(0.001)
        said = None if refusals or not stated else flow.describe()
        assert said is None  # so far it is nothing to speak of
        await asyncio.sleep(0 if refusals else 2.5)
        said = flow.describe()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        return said

    assert run(go()) == told


@pytest.mark.parametrize("service, lines", [
    (Faulty(statuses=(429, 500, None, None), share=0.3), []),
    (Faulty(statuses=(429,), share=0.5), []),
    (Down(), [f"openai is down, and tried again after {seconds} s" for seconds in (2, 8, 10)]),
    (Minutely(burst=10), ["openai refuses to be asked more at once"]),
], ids=lambda value: type(value).__name__)
def test_a_run_prints_few_lines(run, service, lines):
    """What is told twice a second, where the same is printed once."""
    async def go():
        flow, told = Flow("openai"), []

        async def listen():
            while True:
                await asyncio.sleep(0.5)
                if (note := flow.describe()) and note not in told[-1:]:
                    told.append(note)

        listening = asyncio.create_task(listen())
        await Drive(service, 2000, concurrency=20).go(flow)
        listening.cancel()
        return told

    assert run(go()) == lines


@pytest.mark.parametrize("attempt, wait, least, most", [
    (0, None, 0, 0.25), (3, None, 0, 2), (9, None, 0, 10), (5000, None, 0, 10), (0, 20.0, 20, 22), (7, 0.5, 0.5, 0.55), (2, 0.0, 0, 0),
])
def test_the_delay_before_another_try(attempt, wait, least, most):
    rng = random.Random(1)
    drawn = [retry_delay(attempt, wait, rng) for _ in range(1000)]
    assert least <= min(drawn) and max(drawn) <= most
    assert max(drawn) - min(drawn) >= 0.9 * (most - least)


DATE = "Mon, 23 Nov 2026 12:00:00 GMT"


@pytest.mark.parametrize("given, told", [
    ({"x-ratelimit-limit-requests": "500", "X-RateLimit-Remaining-Requests": "499", "x-ratelimit-reset-requests": "120ms"},
     {"requests": (499, 500, 0.12)}),
    ({"x-ratelimit-limit-tokens": "30000", "x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6m0s"},
     {"tokens": (0, 30000, 360)}),
    ({"x-ratelimit-remaining-tokens": "17", "x-ratelimit-reset-tokens": "45m3.5s"}, {"tokens": (17, None, 2703.5)}),
    ({"x-ratelimit-remaining-requests": "3"}, {"requests": (3, None, 60)}),
    ({"Anthropic-RateLimit-Requests-Limit": "50", "Anthropic-RateLimit-Requests-Remaining": "49",
      "anthropic-ratelimit-requests-reset": "2026-11-23T12:00:30Z", "Date": DATE}, {"requests": (49, 50, 30)}),
    ({"anthropic-ratelimit-input-tokens-remaining": "7", "anthropic-ratelimit-input-tokens-reset": "2026-11-23T12:00:01+00:00",
      "anthropic-ratelimit-output-tokens-remaining": "8", "date": DATE}, {"input tokens": (7, None, 1), "output tokens": (8, None, 60)}),
    ({"x-ratelimit-limit-req-minute": "720", "x-ratelimit-remaining-req-minute": "717", "x-ratelimit-remaining-tokens-minute": "9",
      "x-ratelimit-remaining-tokens-month": "8", "x-ratelimit-tokens-query-cost": "52"},
     {"requests minute": (717, 720, 60), "tokens minute": (9, None, 60)}),
    ({"ratelimitbysize-limit": "100", "ratelimitbysize-remaining": "40", "ratelimitbysize-reset": "12", "ratelimitbysize-query-cost": "3"},
     {"tokens": (40, 100, 12)}),
    ({"X-RateLimit-Limit": "20", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1795435212000", "Date": DATE},
     {"requests": (0, 20, 12)}),
    ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1795435212", "Date": DATE}, {"requests": (0, None, 12)}),
    ({"RateLimit-Limit": "100, 100;w=10", "RateLimit-Remaining": "5", "RateLimit-Reset": "7"}, {"requests": (5, 100, 7)}),
    ({"RateLimit": "limit=100, remaining=50, reset=5"}, {"requests": (50, 100, 5)}),
    ({"RateLimit-Policy": '"burst";q=100;w=10, "daily";q=1000;w=86400', "RateLimit": '"burst";r=50;t=5, "daily";r=9;t=7000'},
     {"requests burst": (50, 100, 5)}),
    ({"RateLimit": '"a";r=50;t=5, "b";r=9;t=7'}, {"requests a": (50, None, 5), "requests b": (9, None, 7)}),
    ({"x-ratelimit-remaining-requests": "-1", "x-ratelimit-remaining-tokens": "0", "x-ratelimit-limit-tokens": "0"}, {}),
    ({"x-ratelimit-remaining-requests": "nan", "x-ratelimit-remaining-tokens": "inf"}, {"tokens": (math.inf, None, 60)}),
    ({"x-ratelimit-remaining-requests": "many", "x-ratelimit-reset-requests": "soon"}, {}),
    ({"x-ratelimit-remaining-requests": "4", "x-ratelimit-reset-requests": "soon"}, {"requests": (4, None, 60)}),
    ({"Content-Type": "application/json", "Retry-After": "3"}, {}),
])
def test_what_headers_tell(given, told):
    found = headers.limits(given)
    assert {key: (one.remaining, one.limit, pytest.approx(one.reset)) for key, one in found.items()} == told
    assert all(one.kind == ("tokens" if "tokens" in key else "requests") for key, one in found.items())


def test_an_account_without_limits_costs_next_to_nothing():
    async def one(flow):
        await flow.enter(100)
        flow.leave(200, 100)

    async def go(count):
        flow = Flow()
        for _ in range(count):
            await one(flow)

    began = time.process_time()
    asyncio.run(go(20_000))
    assert time.process_time() - began < 1.5 * 20_000 / 100_000 * 3  # three times as much as on a quiet machine
