"""Money: what is known beforehand, what is paid, what is never exceeded. What isn't known is told as such, never as 0."""

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from textwrap import dedent

import pytest
from test_guards import RUN

from ddmake.artifacts import sampled
from ddmake.backends.base import Request
from ddmake.calls import budget, prices, tokens
from ddmake.calls.budget import Budget, OverBudget, worst_case
from ddmake.calls.money import dollars
from ddmake.ddfile.load import load
from ddmake.ddfile.specs import LLM
from ddmake.engine.asked import asks
from ddmake.engine.counting import Looker
from ddmake.engine.verdicts import Verdict
from ddmake.errors import ProviderError
from ddmake.store import open_store

ROWS = """
    cfg = config(n=40)
    rows = cfg.n

    @step("rows")
    def numbered():
        yield from ({{"x": f"word {{i}}"}} for i in range(rows))

    gpt = llm("openai/toy", base_url="{url}", identity="toy"{more})
    transform("said", numbered, llm=gpt, column="said", prompt={prompt!r})
"""
PROMPT = "Say it as clearly as you can, please, and then once more: {{ x }}"


def asking(project, service, prompt=PROMPT, **llm):
    """Write a workflow of n rows, each asked about once."""
    more = "".join(f", {name}={value!r}" for name, value in llm.items())
    return project.ddfile(ROWS.format(url=service.url, prompt=prompt, more=more))


def estimate(project, target, *args):
    """Return what a dry run says of a target's requests."""
    plan = json.loads(project.make("-n", "--json", *args).output)
    return next(rule["estimate"] for rule in plan["rules"] if rule["targets"] == [target])


def asked_keys(project, target, *knobs):
    """Return the keys of what a target would ask."""
    before = Path.cwd()
    os.chdir(project.root)
    try:
        flow = load(project.root / "Ddfile", **dict(knob.split("=") for knob in knobs))
        with closing(open_store(project.root)) as store:
            rule = flow.find(target).rule
            with closing(Looker(flow, store, Verdict(rule, "make"))) as looker:
                asking, = asks(rule, looker.given())
                return [call.key for call, _ in asking.llm.look(asking.prompts)]
    finally:
        os.chdir(before)


def paid(project):
    """Return what all calls have cost, as the database has it."""
    with sqlite3.connect(project.root / ".ddmake" / "calls.db") as db:
        return db.execute("SELECT total(cost) FROM calls").fetchone()[0]


@pytest.mark.parametrize("name, more, per_million", [
    ("openai/gpt-4o", {}, (2.5, 10)),
    ("anthropic/claude-sonnet-4-5", {}, (3, 15)),
    ("bedrock/converse/anthropic.claude-sonnet-4-5-20250929-v1:0", {}, (3, 15)),
    ("cohere/command-r-08-2024", {}, (0.15, 0.6)),
    ("openai/gpt-4o", {"price": (1, 2)}, (1, 2)),
    ("openai/gpt-4o", {"base_url": "http://127.0.0.1:1/v1"}, None),  # another's gpt-4o
    ("openai/gpt-4o", {"base_url": "https://eu.api.openai.com/v1"}, (2.5, 10)),
    ("openai/gpt-4o-the-very-newest", {}, None),  # nothing like it counts
    ("azure/gpt-4o", {"base_url": "https://mine.openai.azure.com"}, None),  # a deployment's name
    ("vllm/gpt-4o", {}, None),
    ("vllm/some", {"price": (0, 0)}, (0, 0)),
    ("tiny", {}, (0, 0)),
    ("echo", {}, (0, 0)),
    ("hf/some/model", {}, (0, 0)),
])
def test_a_price_is_stated_or_found_by_the_very_name(name, more, per_million, monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    found = prices.price_of(LLM(name, **more))
    assert per_million == (found and pytest.approx((found.tokens_in * 1e6, found.tokens_out * 1e6)))


@pytest.mark.parametrize("price", ["3", "(3,)", "(1, -2)", "('1', '2')", "(True, 1)", "(1, float('nan'))"])
def test_a_price_that_is_none_is_refused(project, price):
    project.ddfile(f'generate("said", llm=llm("openai/gpt-4o", price={price}), prompt="x", n=1)')
    found = project.run("-n")
    assert found.code == 2 and "Ddfile:3: llm('openai/gpt-4o'): price=" in found.output
    assert "isn't a price. Write dollars for a million tokens, in and out, as in price=(2.5, 10)." in found.output


@pytest.mark.parametrize("tokens_in, tokens_out, more, millionths", [
    (1000, 100, {}, 1000 * 3 + 100 * 15),
    (1000, 100, {"batch": True}, 1000 * 1.5 + 100 * 7.5),
    (1000, 100, {"cached": 400}, 600 * 3 + 400 * 0.3 + 100 * 15),
    (200_000, 100, {}, 200_000 * 3 + 100 * 15),
    (200_001, 100, {}, 200_001 * 6 + 100 * 22.5),  # dearer, all of it
    (1000, None, {}, None),
    (None, 100, {}, None),
])
def test_what_a_request_costs(tokens_in, tokens_out, more, millionths):
    price = prices.price_of(LLM("bedrock/anthropic.claude-sonnet-4-5-20250929-v1:0"))
    found = prices.cost(price, tokens_in, tokens_out, **more)
    assert found == (None if millionths is None else pytest.approx(millionths / 1e6))
    assert prices.cost(None, tokens_in, tokens_out, **more) is None
    assert prices.cost(prices.LOCAL, None, None) == 0.0


@pytest.mark.parametrize("text", ["", "plain words of a prompt " * 50, "żółć 機械学習 🤖👩‍👩‍👧 " * 40, "ﷺ" * 100, "\x00\t\n" * 100, "a1!" * 300])
def test_the_worst_case_isnt_exceeded_by_any_text(text):
    encoding = tokens._encoding()
    request = Request(({"role": "system", "content": text}, {"role": "user", "content": text}))
    worst = worst_case(LLM("openai/toy", price=(1, 0), max_tokens=1), request) * 1e6
    assert 2 * len(encoding.encode_ordinary(text)) + 2 * tokens.A_MESSAGE < worst


HELLO = Request(({"role": "user", "content": "hello"},))


@pytest.mark.parametrize("llm, request_, told", [
    (LLM("openai/unheard-of", max_tokens=5), HELLO, "its price isn't known. State price=(in, out)"),
    (LLM("openai/toy", price=(1, 1)), HELLO, "its answers can have any length. State max_tokens"),
    (LLM("openai/gpt-4o", extra={"service_tier": "priority"}), HELLO, "what 'service_tier' in extra= costs"),
    (LLM("openai/gpt-4o"), Request(({"role": "user", "content": [{"type": "input_audio"}]},)), "a part of type 'input_audio'"),
])
def test_where_no_bound_is_known_it_says_what_to_state(llm, request_, told, monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(ProviderError) as caught:
        worst_case(llm, request_)
    assert told in str(caught.value)


def test_the_worst_case_counts_all_that_is_asked_for():
    def most(request=HELLO, **more):
        return worst_case(LLM("openai/toy", price=(1, 100), max_tokens=1000, **more), request)

    shown = Request(({"role": "user", "content": [{"type": "text", "text": "hello"},
                                                  {"type": "image_url", "image_url": {"url": "data:" + "x" * 10**6}}]},))
    plain = most()
    assert 0.1 < plain < 0.101
    assert most(extra={"n": 3}) == pytest.approx(3 * 0.1, rel=0.01)
    assert most(extra={"max_completion_tokens": 5000}) == pytest.approx(0.5, rel=0.01)
    assert most(shown) == pytest.approx(plain + budget.AN_IMAGE / 1e6, rel=0.01)
    assert most(batch=True) == pytest.approx(plain / 2)


def test_a_budget_isnt_exceeded_whatever_is_in_flight():
    async def spend():
        purse, most = Budget(1.0), 0.0

        async def one(number):
            nonlocal most
            await purse.reserve(0.09)
            most = max(most, purse.spent + purse.reserved)
            await asyncio.sleep(0)
            purse.settle(0.09, None if number % 10 == 0 else 0.01)

        ends = await asyncio.gather(*(one(number) for number in range(100)), return_exceptions=True)
        return purse, most, [end for end in ends if end is not None]

    purse, most, refused = asyncio.run(spend())
    assert purse.spent <= 1.0 and most <= 1.0 + 1e-6 and purse.reserved == pytest.approx(0, abs=1e-9)
    assert refused and all(isinstance(end, OverBudget) for end in refused)
    assert purse.spent > 0.9 and purse.unknown  # what isn't known counts at its most


def test_who_stops_waiting_for_room_takes_none():
    async def spend():
        purse = Budget(1.0)
        await purse.reserve(0.8)
        gone, next_ = (asyncio.create_task(purse.reserve(worst)) for worst in (0.7, 0.6))
        await asyncio.sleep(0)
        purse.settle(0.8, 0.1)
        gone.cancel()  # its turn has come already, and it hasn't heard of it
        await asyncio.wait([gone, next_], timeout=1)
        return gone.cancelled(), next_.done() and next_.exception(), purse.reserved

    assert asyncio.run(spend()) == (True, None, pytest.approx(0.6))


def test_a_dry_run_says_what_will_be_paid(project, service):
    asking(project, service, price=(1, 10)).make("n=4")
    assert service.counts()["requests"] == 4
    before = paid(project)
    project.make("rows", "n=400")
    told = estimate(project, "said", "n=400")
    assert (told["send"], told["cached"], told["rough"]) == (396, 4, False)
    project.make("n=400")
    assert told["dollars"] == pytest.approx(paid(project) - before, rel=0.1)
    assert service.counts()["requests"] == 400


def test_the_table_of_a_dry_run(project, service):
    asking(project, service, price=(1000, 1000))
    shown = project.make("-n").output
    assert shown.splitlines()[1].split() == ["target", "send", "cached", "tokens", "in/out", "$", "why"]
    assert [line.split()[:6] for line in shown.splitlines()[2:4]] == [
        ["make", "rows", "–", "–", "–", "–"], ["maybe", "said", "?", "?", "?", "?"]]
    project.make("rows")
    assert "?: how long the answers for said are isn't known yet. Try a few: ddmake preview said" in project.make("-n").output
    project.make()
    project.make("rows", "n=43")
    line = next(line for line in project.make("-n", "n=43").output.splitlines() if line.split()[:2] == ["make", "said"])
    assert line.split()[2:4] == ["3", "40"] and line.count("~") == 3 and line.endswith("input rows: 40 -> 43 rows")
    assert "Make 1. Sure ~$0." in project.make("-n", "n=43").output


def test_what_isnt_known_is_named_at_once(project, service):
    asking(project, service).make("rows")
    assert "?: neither the price for said is known nor how long its answers are. State llm(…, price=(in, out))" in \
        project.make("-n").output
    assert estimate(project, "said")["unpriced"]


def test_a_dry_run_says_when_it_would_cost_more_than_allowed(project, service):
    asking(project, service, price=(1000, 1000)).make("n=4")
    project.make("rows", "n=40")
    assert "That is more than --max-cost 0.5: the run would stop there." in project.make("-n", "--max-cost", "0.5", "n=40").output
    assert "more than" not in project.make("-n", "--max-cost", "50", "n=40").output


def test_what_a_retry_sends_anew_is_announced(project, service):
    """Known answers that can't be used: those that a parser refused, were cut, or break the schema."""
    service.fail(0.0, prompts={"word 7": "filter"})
    more = f"""
    def odd(text, row):
        return {{}}[text] if row["x"] in ("word 2", "word 3") else text
    transform("parsed", numbered, llm=gpt, column="said", parse=odd, prompt={PROMPT!r})
    """
    asking(project, service)
    (project.root / "Ddfile").write_text((project.root / "Ddfile").read_text() + dedent(more))
    project.make("n=10")
    told = estimate(project, "parsed", "parsed", "n=10", "--retry-failed")
    assert (told["send"], told["cached"]) == (3, 7)
    before = service.counts()["requests"]
    assert "3 sent, 7 cached" in project.make("--retry-failed", "n=10", "parsed").output
    assert service.counts()["requests"] >= before + 3


@pytest.mark.parametrize("kind, price, told", [
    ("cut", (1, 1), "at least $"),  # a reply that broke off may be paid for
    ("cut", (0, 0), "$0.00 now, $0.00 in all"),
    ("hang", (1, 1), "at least $"),
    ("429", (1, 1), "$0.0"),
])
def test_what_may_have_been_paid_isnt_said_to_be_nothing(project, service, kind, price, told):
    service.fail(0.0, prompts={"word 1": kind})
    output = asking(project, service, price=price, retries=0, timeout=0.5).make("n=3").output
    assert output.splitlines()[-1].startswith(told), output


def test_where_nothing_came_the_sum_is_unknown(project, service):
    service.fail(1.0, "cut")
    output = asking(project, service, price=(1, 1), retries=0).run("n=2").output
    assert "$? now, $? in all." in output


def test_what_was_in_flight_at_the_second_interrupt_may_have_been_paid(project, service):
    service.fail(0.0, latency=60)
    asking(project, service, price=(1, 1)).make("rows", "n=2")
    process = project.command("n=2")
    while service.counts()["requests"] < 2:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert "$? now, $? in all." in process.communicate(timeout=30)[0]


def test_what_another_run_pays_meanwhile_is_not_of_this_one(project, service):
    asking(project, service, price=(1000, 1000)).make("n=4")
    with sqlite3.connect(project.root / ".ddmake" / "calls.db") as db:
        db.execute("UPDATE calls SET made = made + 1e6")
    before = paid(project)
    output = project.make("n=5").output
    assert f"{dollars(paid(project) - before)} now, {dollars(paid(project))} in all" in output


def test_without_a_price_nothing_is_said_to_cost_nothing(project, service):
    asking(project, service).make()
    asking(project, service, prompt="Another: {{ x }}")
    told = estimate(project, "said")
    assert told["dollars"] is None and told["tokens_out"] > 0
    assert "?: the price for said isn't known. State it: llm(…, price=(in, out))" in project.make("-n").output
    assert "40 sent; $?" in project.make().output
    assert "80 calls, $?. The price of 80 calls isn't known" in project.make("cost").output


def test_what_two_rules_would_ask_both_is_counted_once(project, service):
    asking(project, service, temperature=0)
    ddfile = project.root / "Ddfile"
    ddfile.write_text(ddfile.read_text() + f'\ntransform("again", numbered, llm=gpt, column="said", prompt={PROMPT!r})\n')
    project.make("rows")
    assert [estimate(project, target)["send"] for target in ("said", "again")] == [40, 0]
    project.make()
    assert service.counts()["requests"] == 40


def test_of_very_many_rows_a_part_is_counted(project, service, monkeypatch):
    monkeypatch.setattr(sampled, "WHOLE", 100)
    monkeypatch.setattr(sampled, "BLOCK", 10)
    asking(project, service).make("n=1000", "rows")
    told = estimate(project, "said", "n=1000")
    assert told["rough"] and told["send"] == pytest.approx(1000, rel=0.1)
    assert "~1,000" in project.make("-n", "n=1000").output


def test_a_view_is_counted_as_it_is_read(project, service):
    asking(project, service)
    ddfile = project.root / "Ddfile"
    views = ["take(7)", "skip(35)", "shard(1, of=3)", "rename(x='y').rename(y='x')", "shuffle(seed=1).take(9)",
             "filter(lambda row: row['x'] < 'word 2')"]
    ddfile.write_text(ddfile.read_text() + "".join(
        f'\ntransform("view{at}", numbered.{view}, llm=gpt.using(sample={at}), column="y", prompt="{{{{ x }}}}")'
        for at, view in enumerate(views)))
    project.make("rows")
    assert [estimate(project, f"view{at}")["send"] for at in range(len(views))] == [7, 5, 13, 40, 9, 12]


def test_no_more_is_spent_than_allowed_and_what_was_answered_is_kept(project, service):
    asking(project, service, price=(1000, 1000), max_tokens=20)  # dollars for a thousand tokens
    stopped = project.run("--max-cost", "2")
    assert stopped.code == 1 and "of --max-cost 2 are spent" in stopped.output
    assert 0 < paid(project) <= 2
    kept = service.counts()["requests"]
    assert 0 < kept < 40
    assert f"  {kept} of 40 answers are kept, ${paid(project):.2f} spent." in stopped.output
    project.make("--max-cost", "40")
    assert service.counts()["requests"] == 40


def test_what_is_kept_where_a_service_refuses(project, service):
    asking(project, service, price=(1, 10)).make("n=10")
    service.fail(1.0, "401")
    stopped = project.run("n=12")
    assert stopped.code == 1 and "answered 401" in stopped.output
    assert "  10 of 12 answers are kept, $0.00 spent." in stopped.output


@pytest.mark.parametrize("rule", ["maybe", "own"])
def test_a_missing_key_is_found_before_anything_is_made(project, service, rule):
    """Also that of a rule whose input isn't there yet, and of a recipe that doesn't tell what it asks."""
    asking(project, service, **({"api_key_env": "NO_SUCH_KEY"} if rule == "maybe" else {}))
    if rule == "own":
        (project.root / "Ddfile").write_text((project.root / "Ddfile").read_text() + dedent("""
            @step("own", llm=gpt.using(api_key_env="NO_SUCH_KEY"))
            def own(*, llm):
                return [{"x": str(answer)} for answer in llm.complete(["a"])]
        """))
    told = project.run("n=2")
    label = "said" if rule == "maybe" else "own"
    assert told.code == 2 and f"{label}: openai/toy needs an API key: set NO_SUCH_KEY" in told.output
    assert not (project.root / "rows").exists() and service.counts()["requests"] == 0
    assert f"\n{label}: openai/toy needs an API key: set NO_SUCH_KEY" in project.make("-n", "n=2").output


def test_a_service_without_an_address_is_a_mistake(project, monkeypatch):
    for name in ("AZURE_API_BASE", "AZURE_OPENAI_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AZURE_API_KEY", "k")
    project.ddfile('generate("said", llm=llm("azure/mine"), prompt="x", n=3)')
    for args in (["-n"], []):
        found = project.run(*args)
        assert (found.code, found.output) == (2, "Ddfile:3: said: azure/mine has no address: set AZURE_API_BASE, or state "
                                                 "base_url=….\n")


def test_what_is_under_way_in_a_batch_is_not_money_to_come(project, service):
    asking(project, service, price=(1, 10), batch=True).make("rows", "n=4")
    keys = asked_keys(project, "said", "n=4")
    with sqlite3.connect(project.root / ".ddmake" / "calls.db") as db:
        db.executemany("INSERT INTO batch_items (key, token, number, request) VALUES (?, 't', ?, '{}')",
                       [(key, number) for number, key in enumerate(keys[:3])])
    told = estimate(project, "said", "n=4")
    assert (told["send"], told["cached"], told["under_way"]) == (1, 0, 3)
    assert "said: 3 under way in a batch: collected, and not sent again." in project.make("-n", "n=4").output


MENDED = """
    @step("rows")
    def rows():
        yield from ({{"x": f"word {{i}}"}} for i in range(4))

    def odd(text, row):
        if row["x"] == "word 1":
            raise ValueError("odd")
        return text

    toy = llm("openai/toy", base_url="{url}")
    transform("mended", rows, llm=toy, prompt="{{{{ x }}}}", schema={{"a": str}})
    transform("parsed", rows, llm=toy, prompt="{{{{ x }}}}", parse=odd)
"""


def test_sent_and_cached_add_up_to_the_rows(project, service):
    """Whatever it took: an answer that was sent back to be mended, a row that a parser had asked again."""
    service.fail(0.0, prompts={"word 2": "misfit"})
    project.ddfile(MENDED.format(url=service.url))
    assert "4 sent; $?" in project.make("mended").output and service.counts()["requests"] == 5
    service.fail(0.0, prompts={})
    assert "4 sent; $?" in project.make("parsed").output and service.counts()["requests"] == 11
    assert "1 sent, 3 cached; $?" in project.make("--retry-failed", "parsed").output


def test_what_was_paid_by_target_model_and_day(project, service):
    asking(project, service, price=(1, 10)).make()
    found, = json.loads(project.make("cost", "--json").output)
    assert (found["rule"], found["llm"], found["calls"], found["unknown"]) == ("said", "openai/toy", 40, 0)
    assert found["dollars"] == pytest.approx(paid(project))
    assert project.make("cost", "said").output.endswith(f"40 calls, ${found['dollars']:.2g}.\n".replace("$0.0$", "$0."))
    assert project.run("cost", "sait").output == "Nothing was asked for 'sait'. Did you mean 'said'? What was: ddmake cost\n"


def test_a_dry_run_without_llms_loads_nothing_for_them(project):
    project.ddfile("""
        @step("a")
        def a():
            yield {"x": 1}
    """)
    script = RUN.format(args=["-n"]) + "\nprint('LOADED', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=project.root, capture_output=True, text=True)
    loaded = set(done.stdout.split("LOADED")[1].split())
    assert not loaded & {"ddmake.engine.counting", "ddmake.calls.prices", "ddmake.calls.cache", "pyarrow", "tiktoken"}, done.stderr
