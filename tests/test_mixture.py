"""Several llms behind one name: who is asked what, and that nothing else changes by it."""

import json
import os
import signal
import time
from collections import Counter

import pytest

from ddmake import llm, mixture
from ddmake.calls.context import context_of

ROWS = """
cfg = config(n=60)
def named(name, **more):
    return llm(f"openai/{{name}}", base_url="{url}", identity="toy", **more)
alpha, beta, gamma = named("alpha"), named("beta"), named("gamma")

@step("rows", n=cfg.n)
def rows(*, n):
    return ({{"x": f"word {{i}}"}} for i in range(n))

"""
SAID = 'transform("said", rows, llm={llm}, prompt="Say {{{{ x }}}}", column="said", meta=True{more})\n'
LOCAL = """
@step("rows", n=40)
def rows(*, n):
    return ({"x": f"word {i}"} for i in range(n))
"""


@pytest.fixture
def signed(service):
    """A service whose answers begin with the model's name."""
    service.fail(0, sign=True)
    return service


def asking(project, service, llm="mixture(alpha, beta)", rule=SAID, **more):
    told = "".join(f", {name}={value}" for name, value in more.items())
    return project.ddfile(ROWS.format(url=service.url) + rule.format(llm=llm, more=told))


def estimate(project, target="said", *args):
    plan = json.loads(project.make("-n", "--json", *args).output)
    return next((rule["estimate"] for rule in plan["rules"] if rule["targets"] == [target]), None)


def who(project, path="said"):
    """Return which model answered each row; the answer has to be to that row."""
    rows = project.rows(path)
    assert all(row["said"].upper().endswith(f"SAY {row['x'].upper()}") for row in rows), rows
    return [row["said"].split()[0].strip(":").lower() for row in rows]


@pytest.mark.slow
def test_who_is_asked_stays_when_rows_and_members_are_added(project, signed):
    asking(project, signed).make()
    first = who(project)
    assert set(first) == {"alpha", "beta"} and [row["said_meta"]["model"] for row in project.rows("said")] == first
    assert signed.counts()["requests"] == 60

    project.make("n=80")
    longer = who(project)
    assert longer[:60] == first and signed.counts()["requests"] == 80

    asking(project, signed, "mixture(gamma, beta, alpha)")
    sends = estimate(project, "said", "n=80")["send"]
    project.make("n=80")
    third = who(project)
    assert {new for old, new in zip(longer, third) if old != new} == {"gamma"}, "a new member moves only what it takes over"
    assert 10 < third.count("gamma") == sends < 50 and signed.counts()["requests"] == 80 + sends

    asking(project, signed).make("n=80")
    assert who(project) == longer and signed.counts()["requests"] == 80 + sends


def test_an_answer_of_a_member_alone_is_the_same_answer(project, signed):
    asking(project, signed, "alpha").make()
    asking(project, signed)
    assert estimate(project)["send"] == 60 - estimate(project)["cached"]
    project.make()
    took = Counter(who(project))
    assert signed.counts()["requests"] == 60 + took["beta"]

    asking(project, signed, "beta")
    assert estimate(project)["cached"] == took["beta"]


def test_shares_are_as_the_weights_have_them(project, signed):
    asking(project, signed).make()
    even = who(project)
    asking(project, signed, "mixture(alpha, beta, weights=(1, 9))")
    assert project.make("-n").why("said") == "llm['weights'] added"
    project.make()
    uneven = who(project)
    assert uneven.count("beta") > 45 and ("beta", "alpha") not in zip(even, uneven), "who gains weight gives nothing away"


def test_equal_prompts_go_to_one_member_and_stay_samples(project, signed):
    rule = 'transform("said", rows, llm={llm}, prompt="Say {{{{ x }}}}", column="said", samples=3)\n'
    asking(project, signed, rule=rule).make("n=20")
    found = who(project)
    assert all(len(set(found[at:at + 3])) == 1 for at in range(0, 60, 3)) and signed.counts()["requests"] == 60


def test_a_model_of_this_process_and_a_service_side_by_side(project, signed):
    """Answers come in the order of prompts, to the parser with their own rows."""
    asking(project, signed, 'mixture(llm("echo"), alpha, beta)', parse='lambda text, row: text + " | " + row["x"]').make("n=300")
    rows = project.rows("said")
    assert all(row["said"].endswith(f"{row['x']} | {row['x']}") or row["said"].endswith(f"{row['x'].upper()} | {row['x']}")
               for row in rows)
    there = sum("SAY" in row["said"] for row in rows)
    assert 100 < there < 300 and signed.counts()["requests"] == there
    assert project.make("-n", "n=300").verdicts() == {}


def test_more_prompts_than_are_looked_up_at_once(project, signed):
    asking(project, signed, 'mixture(llm("echo"), alpha, weights=(20, 1))').make("n=9000")
    assert [row["x"] for row in project.rows("said")] == [f"word {i}" for i in range(9000)]
    assert 200 < sum(row["said"].startswith("alpha") for row in project.rows("said")) == signed.counts()["requests"]


def spent(project):
    return {part["llm"]: part["dollars"] for part in json.loads(project.make("cost", "--json").output)}


@pytest.mark.slow
def test_each_member_is_priced(project, signed):
    """One of them costs and the other doesn't: a share of the prompts is paid for, and that is announced."""
    members = 'mixture(named("alpha", price=(1000, 1000), max_tokens=50), named("beta", price=(0, 0), max_tokens=50))'
    asking(project, signed, members).make("n=50")
    before = spent(project)
    project.make("rows", "n=99")
    told = estimate(project, "said", "n=99")
    project.make("n=99")
    after = spent(project)
    assert told["send"] == 49 and after["openai/beta"] == 0
    assert told["dollars"] == pytest.approx(after["openai/alpha"] - before["openai/alpha"], rel=0.1)


def test_a_row_that_fails_at_one_member_is_not_asked_of_another(project, signed):
    signed.fail(0, prompts={"word 7": "filter"}, sign=True)
    result = asking(project, signed).make("n=9")
    rows = project.rows("said")
    assert rows[7]["said"] is None and sum(row["said"] is None for row in rows) == 1 and "1 failed" in result.output
    assert signed.counts()["requests"] == 9
    failed = project.make("show", "said", "--failed").output
    assert "row 7" in failed and ("openai/alpha" in failed) != ("openai/beta" in failed)


def test_rows_that_a_parser_refused_are_counted_to_be_sent_again(project, signed):
    asking(project, signed, parse='lambda text, row: {"word 7": {}}.get(row["x"], {"": text})[""]').make("n=30")
    before = signed.counts()["requests"]
    assert before == 32, "three times that row"
    sends = estimate(project, "said", "--retry-failed", "n=30")["send"]
    project.make("--retry-failed", "n=30")
    assert sends == 1 and signed.counts()["requests"] > before


def test_a_refusal_of_one_member_stops_the_rule_and_names_it(project, signed):
    signed.fail(0, prompts={"word 7": "401"}, sign=True)
    result = asking(project, signed).run("n=9")
    assert result.code == 1 and "answered 401" in result.output and "Traceback" not in result.output
    signed.fail(0, prompts={}, sign=True)
    project.make("n=9")
    assert len(who(project)) == 9 and signed.counts()["answered_again"] == 0


def test_the_keys_of_all_members_are_looked_for(project, signed, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("MY_KEY", raising=False)
    result = asking(project, signed, 'mixture(alpha, named("beta", api_key_env="MY_KEY"))').run()
    assert result.code == 2 and "openai/beta needs an API key: set MY_KEY" in result.output and not signed.counts()["requests"]
    monkeypatch.setenv("MY_KEY", "k")
    project.make()
    monkeypatch.delenv("MY_KEY")
    assert project.make("-q").code == 0


CHANGES = [  # the mixture now, and why the target is stale
    ("mixture(alpha, beta)", None),
    ("mixture(alpha, beta, weights=(2, 2))", None),
    ('mixture(alpha.using(concurrency=3), beta.using(price=(1, 1), license="mit"))', None),
    ("mixture(alpha, beta, gamma)", "llm['openai/gamma'] added"),
    ("mixture(alpha, gamma)", "llm['openai/gamma'] added, llm['openai/beta'] taken away"),
    ("mixture(alpha, beta.using(temperature=0.5))", "llm['openai/beta']: temperature unset -> 0.5"),
    ("mixture(alpha, beta).using(seed=1)", "llm['openai/alpha']: seed unset -> 1, llm['openai/beta']: seed unset -> 1"),
    ("alpha", "llm changed"),
]


def test_what_makes_it_stale(project, signed):
    asking(project, signed).make("n=4")
    for now, why in CHANGES:
        result = asking(project, signed, now).make("-n", "n=4")
        assert (result.why("said") if "said" in result.verdicts() else None) == why, now


def test_a_change_of_one_member_asks_only_that_one_again(project, signed):
    asking(project, signed).make()
    took = Counter(who(project))
    asking(project, signed, "mixture(alpha, beta.using(temperature=0.5))")
    assert estimate(project)["send"] == took["beta"]
    asking(project, signed, "mixture(alpha, beta).using(sample=1)")
    assert estimate(project)["send"] == 60


@pytest.mark.slow
def test_kill_9_halfway_pays_for_nothing_twice(project, signed):
    asking(project, signed, "mixture(named('alpha', concurrency=4), named('beta', concurrency=4))")
    signed.fail(0, latency=0.03, sign=True)
    process = project.command("said", "n=150")
    while signed.counts()["answered"] < 60:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.5)
    project.make("said", "n=150")
    assert len(who(project)) == 150 and signed.counts()["requests"] - 150 <= 3 * 8


def test_one_ctrl_c_waits_for_what_is_in_flight_alone(project, signed):
    signed.fail(0, latency=0.5, sign=True)
    asking(project, signed, "mixture(named('alpha', concurrency=4), named('beta', concurrency=4))")
    process = project.command("said", "n=100")
    while not signed.counts()["requests"]:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130
    asked = signed.counts()["requests"]
    assert asked < 50
    signed.fail(0, latency=0, sign=True)
    project.make("said", "n=100")
    assert signed.counts()["requests"] == 100, "what was in flight was kept"


def test_a_model_that_is_made_here_is_an_edge(project):
    project.ddfile(LOCAL + """
from ddmake.toys import folder
import shutil
@step("models/mine", {"r": rows})
def mine(parts, *, output):
    shutil.copytree(folder("tiny"), output, dirs_exist_ok=True)
transform("said", rows, llm=mixture(llm("echo"), llm(mine)), prompt="{{ x }}", column="said")
transform("{x}/said", rows, llm=mixture(llm("echo"), llm("models/mine")), prompt="{{ x }}", column="said").bind(x="also")
""")
    project.make("rows")
    result = project.make("-n")
    assert result.verdicts()["models/mine"] == "make"
    assert result.why("said") == "behind models/mine", result.output


def test_cards_name_all_members(project, signed):
    asking(project, signed, 'mixture(named("alpha", license="mit"), named("beta", citation="Beta 2026"))').make("n=20")
    project.make("cards", "said")
    card = (project.root / "cards/said/README.md").read_text()
    assert "openai/alpha" in card and "openai/beta" in card and "Beta 2026" in card


def test_lint_tells_of_rules_that_ask_the_same(project, signed):
    asking(project, signed, rule=SAID + SAID.replace('"said"', '"again"', 1)).make("rows")
    assert "again" in project.run("lint").output


WRONG = [
    ("mixture(alpha)", "takes two llms or more, not 1"),
    ('mixture(alpha, "openai/beta")', "mixture() takes llms, not str. Write llm('openai/beta')."),
    ("mixture(alpha, mixture(beta, gamma))", "mixture() takes llms, not Mixture."),
    ("mixture(alpha, beta, alpha.using(rpm=5))", "is given openai/alpha twice with the same parameters"),
    ("mixture(alpha, beta, weights=(1,))", "has 2 members, and weights=(1,)"),
    ("mixture(alpha, beta, weights=(1, 0))", "Write a number above 0 for each of them."),
    ("mixture(alpha, beta.using(top_q=1))", "top_q"),
    ('mixture(alpha, llm("nowhere/model"))', "there is no backend 'nowhere'"),
]


@pytest.mark.parametrize("given, told", WRONG)
def test_mistakes_are_told(project, given, told):
    text = ROWS.format(url="http://127.0.0.1:1/v1") + SAID.format(llm=given, more="")
    result = project.ddfile(text).run("-n")
    assert result.code == 2 and told in result.output and "Traceback" not in result.output


def test_magpie_refuses_a_mixture(project):
    result = project.ddfile('magpie("m", llm=mixture(llm("tiny"), llm("tiny", seed=1)), n=3)').run("-n")
    assert result.code == 2 and "can't write what a user says" in result.output


def test_a_prompt_has_to_fit_into_the_smallest_context():
    wide, narrow, turns = llm("openai/gpt-4o"), llm("tiny"), [{"role": "user", "content": "word " * 9000}]
    assert [context_of(one).takes(turns) for one in (wide, narrow, mixture(wide, narrow), mixture(wide, llm("openai/gpt-4.1")))
            ] == [True, False, False, True]
