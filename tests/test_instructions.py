"""Self-Instruct, Evol-Instruct and Magpie: instructions made of few, of others, and of nothing."""

import os
import signal
import time
import urllib.request

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddmake.rules.evolving import answers_something, sound
from ddmake.rules.instructions import tasks
from ddmake.rules.unlike import Unlike, rouge_l

SEEDS = ["Tell me why the tide comes in", "Name seven kinds of bees, please", "Écris un poème sur la mer", "请 写 一首 关于 月亮 的 诗"]

MORE = ["Explain how glass was made by the Romans", "Compare two novels about winter journeys", "Plan three meals without any salt", "Which rivers cross both deserts?",
        "Sum up what Kepler found out", "Translate this proverb into plain English", "Give advice to someone who moves abroad", "Sort these words by their age"]

ROWS = """
seeds = rows("seeds", values={rows!r})

{rest}
"""


def ask(project, texts, rest):
    return project.ddfile(ROWS.format(rows=[{"instruction": text, "n": number} for number, text in enumerate(texts)], rest=rest))


# Self-Instruct. The echoed prompt joins the tasks that it is shown, so that each answer is a list of one new task.

JOINED = "1. {{ tasks | join(' ') }} {{ first }} {{ last }}"


def bootstrapped(project, llm, rest="", n=40):
    return ask(project, [*SEEDS, *MORE], f"self_instruct('out', seeds, llm={llm}, n={n}, examples=4, generated=1, threshold=0.8, batch=8, prompt={JOINED!r}{rest})")


def test_it_goes_on_until_there_are_n_that_are_unlike(project):
    bootstrapped(project, "llm('echo')").make()
    found = [row["instruction"] for row in project.rows("out")]
    assert len(found) == 40 and project.rows("out")[0]["round"] == 1 and project.rows("out")[-1]["round"] > 1
    everything, seeds = [*SEEDS, *MORE, *found], len(SEEDS) + len(MORE)
    assert all(rouge_l(one, other) < 0.8 for at, one in enumerate(everything) if at >= seeds for other in everything[:at])
    assert any(SEEDS[3] in text for text in found) and found[0].endswith("5 12")
    assert any(found[0] in text for text in found[1:]), "what was generated is shown in later rounds"
    assert project.run("-n").verdicts() == {}


def test_another_seed_draws_other_examples(project):
    bootstrapped(project, "llm('echo')").make()
    first = project.rows("out")
    bootstrapped(project, "llm('echo')", ", seed=1").make()
    assert project.rows("out") != first


@pytest.mark.slow
@pytest.mark.parametrize("service", [0.02], indirect=True)
def test_what_comes_does_not_depend_on_the_order_of_answers(project, service):
    service.fail(0.2, "filter")
    one, many = (f"llm('openai/toy', base_url='{service.url}', concurrency={at_once})" for at_once in (1, 16))
    bootstrapped(project, one).make()
    first = project.rows("out")
    urllib.request.urlopen(urllib.request.Request(f"{service.root}/reset", method="POST")).close()  # which requests fail is drawn from how often they came
    service.fail(0.2, "filter")
    bootstrapped(project, many, ", cache=False").make("--force")
    assert project.rows("out") == first and len(first) == 40


@pytest.mark.slow
@pytest.mark.parametrize("service", [0.1], indirect=True)
def test_kill_9_in_the_loop_pays_for_nothing_twice(project, service):
    """Nothing but what was in flight is sent again, and what comes is what an undisturbed run makes."""
    bootstrapped(project, f"llm('openai/toy', base_url='{service.url}', concurrency=4)").make("seeds")
    process = project.command("out")
    while service.counts()["answered"] < 30:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.5)
    project.make()
    counts, first = service.counts(), project.rows("out")
    assert counts["answered_again"] <= 12, counts
    assert len(first) == 40
    bootstrapped(project, f"llm('openai/toy', base_url='{service.url}', concurrency=4)", ", cache=False").make("--force")
    assert project.rows("out") == first


LIST = ["Here you are:", "1. Describe a day in the life of a sailor", "2. Draw a map of the harbour for me", "3. Too short", "4. !Shout at the sea as loud as you can",
        "5. Tell me why the tide comes in, then", "6) Describe a day in the life of one sailor", "7. Name 3.5 reasons to leave", "8、用 三句话 解释 什么是 潮汐", "",
        "I hope that helps."]


def test_what_is_no_sound_task_is_left_out(project):
    """A keyword, too few words, punctuation, likeness to a seed, and to the first of the list; the talk around it isn't in it."""
    prompt = "\n".join(LIST)
    ask(project, SEEDS, f"self_instruct('out', seeds, llm=llm('echo'), n=3, prompt={prompt!r})").make()
    assert [row["instruction"] for row in project.rows("out")] == ["Describe a day in the life of a sailor", "Name 3.5 reasons to leave", "用 三句话 解释 什么是 潮汐"]


def test_it_stops_where_nothing_new_comes(project):
    """And what there is can be had without another call."""
    rest = "self_instruct('out', seeds, llm=llm('echo'), n={n}, prompt='1. Describe a day in the life of a sailor', batch=2)"
    result = ask(project, SEEDS, rest.format(n=9)).run()
    assert result.code == 1 and "the last 3 rounds brought nothing new; 1 of 9 instructions are there." in result.output, result.output
    assert "n=1 asks for nothing more" in result.output and "ddmake calls --rule out" in result.output
    assert "2 cached" in ask(project, SEEDS, rest.format(n=1)).make().output
    assert "max_rounds=1 is reached; 1 of 9" in ask(project, SEEDS, rest.format(n=9)[:-1] + ", max_rounds=1)").run().output


def test_without_an_answer_it_says_so(project, service):
    service.fail(1.0, "filter")
    result = bootstrapped(project, f"llm('openai/toy', base_url='{service.url}')").run()
    assert result.code == 1 and "none of the 8 answers of round 1 can be used; the first: " in result.output, result.output


def test_seeds_may_be_null_and_one_is_enough(project):
    ask(project, ["Tell me why the tide comes in", None, "  "], f"self_instruct('out', seeds, llm=llm('echo'), n=1, shortest=3, prompt={JOINED!r}, threshold=1.0)").make()
    assert [row["instruction"] for row in project.rows("out")] == ["Tell me why the tide comes in 2 9"]
    assert "there is no seed" in ask(project, [None], f"self_instruct('out', seeds, llm=llm('echo'), n=1, prompt={JOINED!r})").run().output


def test_a_list_is_read():
    assert tasks("\n".join(LIST))[0] == "Describe a day in the life of a sailor" and tasks("\n".join(LIST))[-1] == "用 三句话 解释 什么是 潮汐"
    assert tasks("9. One\n   goes on\n10. Two\n\n1 note") == ["One goes on", "Two"] and tasks("none") == [] and tasks("") == []


TEXT = st.lists(st.sampled_from("write the a poem list of bees on moon tide".split()), max_size=9).map(" ".join)


@given(st.lists(TEXT, max_size=12), TEXT, st.sampled_from([0.3, 0.5, 0.7, 0.9, 1.0]))
def test_bounds_leave_out_nothing_that_is_like(kept, text, threshold):
    unlike = Unlike(threshold)
    for one in kept:
        unlike.keep(one)
    assert unlike.like(text) == (not text or any(rouge_l(text, one) >= threshold - 1e-9 for one in kept))


@given(TEXT, TEXT)
@settings(deadline=None)  # the package takes seconds to import
def test_rouge_l_is_that_of_the_package(one, other):
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    if one and other:
        assert rouge_l(one, other) == pytest.approx(scorer.score(one, other)["rougeL"].fmeasure)


# Evol-Instruct.

LONGER = "{{ instruction }} {{ kind }}"


def evolve(project, texts, rest):
    return ask(project, texts, f"evol_instruct('out', seeds, llm=llm('echo'), {rest})")


def test_each_round_evolves_what_the_last_has_made(project):
    evolve(project, [*SEEDS, None, " "], f"rounds=3, all=True, prompt={LONGER!r}").make()
    every = project.rows("out")
    assert [row["round"] for row in every] == [0, 1, 2, 3] * 4 + [0, 0]
    assert list(every[0]) == ["instruction", "n", "origin", "kind", "round"] and every[0] == {"instruction": SEEDS[0], "n": 0, "origin": SEEDS[0], "kind": None, "round": 0}
    for before, after in zip(every, every[1:]):
        if after["round"]:
            assert after["instruction"] == f"{before['instruction']} {after['kind']}" and after["origin"] == SEEDS[after["n"]]
    assert {row["kind"] for row in every} > {None, "breadth"} and every[-2]["instruction"] is None and every[-1]["instruction"] == " "
    evolve(project, [*SEEDS, None, " "], f"rounds=3, prompt={LONGER!r}").make()
    assert project.rows("out") == [*(row for row in every if row["round"] == 3), *every[-2:]]


EQUAL, DIFFERENT = '{"verdict": "equal"}', '{"verdict": "different"}'
FAILING = {  # what it is asked by, or its judge, or what its response is: how many evolutions there are in two rounds
    f"prompt={LONGER!r}": 2,
    "prompt='{{ instruction }}!'": 0,
    "prompt='  '": 0,
    "prompt='Sorry, I can not rewrite {{ instruction }}.'": 0,
    "prompt='Rewritten Prompt: {{ instruction }} {{ kind }}'": 0,
    f"prompt={LONGER!r}, judge=llm('echo'), compare='{EQUAL}'": 0,
    f"prompt={LONGER!r}, judge=llm('echo'), compare='{DIFFERENT}'": 2,
    f"prompt={LONGER!r}, judge=llm('echo'), compare='no verdict'": 0,
    "prompt='{{ instruction }} sorry', response='response'": 0,
    f"prompt={LONGER!r}, response='response'": 2,
}


@pytest.mark.parametrize("rest", FAILING)
def test_where_an_evolution_fails_the_last_good_one_goes_on(project, rest):
    evolve(project, SEEDS[:1], f"rounds=2, {rest}").make()
    row, = project.rows("out")
    assert row["round"] == FAILING[rest] and (row["instruction"] == SEEDS[0]) == (FAILING[rest] == 0)
    if "response=" in rest:
        assert row["response"] == (row["instruction"] if FAILING[rest] else None)


def test_a_row_without_an_answer_stays_as_it_was(project, service):
    service.fail(0, prompts={"bees": "filter"})
    llm = f"llm('openai/toy', base_url='{service.url}')"
    result = ask(project, SEEDS[:2], f"evol_instruct('out', seeds, llm={llm}, rounds=2, prompt={LONGER!r})").make()
    assert [(row["round"], row["instruction"].isupper()) for row in project.rows("out")] == [(2, True), (0, False)]
    assert "2 failed" in result.output


def test_where_no_answer_can_be_used_nothing_is_made(project, service):
    service.fail(1.0, "filter")
    for rule in ("evol_instruct('out', seeds, rounds=3, ", "related_personas('out', seeds, persona='instruction', rounds=3, "):
        told = ask(project, SEEDS, f"{rule}llm=llm('openai/toy', base_url='{service.url}'))").run().output
        assert "none of the 4 answers of round 1 can be used; the first: refused" in " ".join(told.split())


def test_kinds_are_drawn_whatever_the_other_rows(project):
    """So another row costs its own evolutions and no others; equal instructions are drawn each for itself."""
    rule = f"rounds=2, all=True, prompt={LONGER!r}"
    evolve(project, [*SEEDS, *SEEDS[:1] * 9], rule).make()
    before = [row["instruction"] for row in project.rows("out")]
    assert len({row["kind"] for row in project.rows("out") if row["n"] > 3}) > 2
    assert "2 sent, 26 cached" in evolve(project, ["A new one", *SEEDS, *SEEDS[:1] * 9], rule).make().output
    assert [row["instruction"] for row in project.rows("out")][3:] == before


SOUND = {  # an evolved instruction, and what it was before: whether it is sound
    ("Name seven bees of Europe", "Name seven bees"): True,
    ("Name seven bees!", "name seven bees"): False,
    ("", "Name seven bees"): False,
    ("I'm sorry, but no", "Name seven bees"): False,
    ("As an AI language model, I …", "Name seven bees"): False,
    ("I can't sleep: name remedies", "Name remedies"): True,
    ("I cannot help with that", "Name remedies"): False,
    ("#The Given Prompt#: name seven bees", "Name seven bees"): False,
    ("Write a letter that says sorry", "Write a letter"): True,
}


@pytest.mark.parametrize("texts", SOUND)
def test_an_evolution_is_sound(texts):
    assert sound(*texts) == SOUND[texts]


RESPONSES = {"Yes": True, "": False, "... the": False, "It is, and": False, "Sorry, no.": False, "Sorry " + "word " * 90: True, "蜜蜂": True}


@pytest.mark.parametrize("text", RESPONSES)
def test_a_response_says_something(text):
    assert answers_something(text) == RESPONSES[text]


PACKAGED = {
    "self_instruct('out', seeds, llm=llm('echo'), n=1, examples=2, batch=1, max_rounds=1)": ["from number 3 to number 10", "Tell me why", "1. "],
    "evol_instruct('out', seeds, llm=llm('echo'), rounds=1, kinds=['breadth'])": ["Write another one in its manner", "Tell me why"],
    "evol_instruct('out', seeds, llm=llm('echo'), rounds=1, kinds=['reasoning'])": ["reasoning in several steps", "Leave out nothing"],
    "evol_instruct('out', seeds, llm=llm('echo'), rounds=1, kinds=['Ask for it in verse.'])": ["Ask for it in verse."],
}


@pytest.mark.parametrize("recipe", PACKAGED)
def test_packaged_prompts_see_what_they_are_told(project, recipe):
    ask(project, SEEDS[:2], recipe).run()
    asked = project.run("calls", "--json").output
    assert all(words in asked for words in PACKAGED[recipe]), asked


def test_no_rows_are_no_rows(project):
    ask(project, SEEDS, f"evol_instruct('out', seeds.filter(lambda row: False), llm=llm('echo'), response='said', prompt={LONGER!r})").make()
    from datasets import load_from_disk

    found = load_from_disk(str(project.root / "out"))
    assert found.column_names == ["instruction", "n", "origin", "kind", "round", "said"] and len(found) == 0
    assert {name: kind.dtype for name, kind in found.features.items()} == {**dict.fromkeys(found.column_names, "string"), "n": "int64", "round": "int64"}


MISTAKES = {
    "self_instruct('out', seeds, llm=llm('echo'), n=0)": "n is a number of at least 1, not 0.",
    "self_instruct('out', seeds, llm=llm('echo'), n=1, generated=-1)": "generated is a number of at least 0, not -1.",
    "self_instruct('out', seeds, llm=llm('echo'), n=1, shortest=200)": "shortest=200 is above longest=150: nothing would be kept.",
    "self_instruct('out', seeds, llm=llm('echo'), n=1, avoid=['map', ''])": "avoid holds a blank word",
    "self_instruct('out', seeds, llm=llm('echo'), n=1, threshold=0.0)": "threshold is a similarity above 0, at most 1, not 0.0.",
    "self_instruct('out', seeds, llm=llm('echo'), n=1, instruction='task')": "there is no column 'task' to begin with. There are: instruction, n.",
    "self_instruct('out', seeds, llm=llm('echo'), n=1, prompt='{{ task }}')": "reads 'task'. There are: tasks, first, last. Did you mean 'tasks'?",
    "evol_instruct('out', seeds, llm=llm('echo'), kinds=['deepen'])": "there is no kind 'deepen'. There are: constraints, deepening,",
    "evol_instruct('out', seeds, llm=llm('echo'), rounds=0)": "rounds is a number of at least 1, not 0.",
    "evol_instruct('out', seeds.rename(n='round'), llm=llm('echo'))": "evol_instruct adds a column 'round', and there is one already",
    "evol_instruct('out', seeds, llm=llm('echo'), response='kind')": "evol_instruct adds a column 'kind', and there is one already",
    "evol_instruct('out', seeds, llm=llm('echo'), response='instruction')": "evol_instruct adds a column 'instruction', and there is one already",
    "magpie('out', llm=llm('tiny'), n=1, instruction='a', response='a')": "magpie adds a column 'a', and there is one already",
    "evol_instruct('out', seeds, llm=llm('echo'), instruction='instuction')": "Did you mean 'instruction'?",
    "magpie('out', llm=llm('openai/gpt-4o'), n=1)": "llm('openai/gpt-4o') can't write what a user says",
    "magpie('out', llm=llm('echo'), n=1)": "llm('echo') can't write what a user says",
    "magpie('out', llm=llm('tiny'), n=0)": "n is how often the model is asked, at least 1, not 0.",
    "magpie('out', llm=llm('tiny'), n=1, system='{{ field }}')": "reads 'field'.",
}


@pytest.mark.parametrize("recipe", MISTAKES)
def test_recipes_are_checked_when_planned(project, recipe):
    ask(project, SEEDS, "").make()
    result = ask(project, SEEDS, recipe).run("-n")
    assert result.code == 2 and MISTAKES[recipe] in result.output, result.output


# Magpie.

MAGPIE = """
toy = llm("tiny", max_tokens=40)
magpie("out", llm=toy, n=12, accept="length")
magpie("alone", llm=toy, n=12, accept="length", respond=False)
magpie("none", llm=llm("tiny-base", max_tokens=40), n=2)

@step("longhand", model=toy)
def longhand(*, model):
    said = list(model.stream([[]] * 3, turn="user", accept=["length"]))
    return [{"user": said[0], "same": said[0] == said[1]}]
"""


@pytest.mark.slow
def test_a_model_writes_the_users_turn_and_answers_it(project):
    """The second rule's turns are those of the first, from the store; so is what a longhand asks for."""
    result = project.ddfile(MAGPIE).run("-k", "-j", "1")
    assert result.code == 1 and "tiny-base has no chat template, so that nothing says where a user's turn begins." in result.output, result.output
    rows = project.rows("out")
    said = [row["instruction"] for row in rows]
    assert 1 < len(said) <= 12 and len(set(said)) == len(said) and all(said) and all(row["response"] for row in rows)
    assert project.rows("alone") == [{"instruction": one} for one in said]
    assert project.rows("longhand")[0]["user"].strip() == said[0]
    assert '"turn": "user"' in project.run("calls", "--json").output
    assert {"out": "fresh", "alone": "fresh"}.items() <= project.run("-n", "-v").verdicts().items()


def test_who_cannot_write_a_users_turn_says_so(project):
    project.ddfile('@step("out", model=llm("echo"))\ndef out(*, model):\n    return [{"said": one} for one in model.stream([[]], turn="user")]\n')
    assert "llm('echo') can't write what a user says" in project.run().output


TEMPLATES = {  # a chat template for a system's and a user's turn: what stands before the user's text, and what ends that
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}": ("<|im_start|>user\n", {3}, ()),
    "{% for m in messages %}{{ '[INST] ' + m.content + ' [/INST]' }}{% endfor %}": ("[INST]", set(), ("[/INST]",)),
    "{% for m in messages %}{{ 'USER: ' + m.content }}{% endfor %}{% if add_generation_prompt %} BOT:{% endif %}": ("USER:", set(), ("BOT:",)),
    "{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}": ("user:", {1}, ()),
    "Say:\n{% for m in messages %}{{ m.content }}{% endfor %}": ("Say:\n", set(), ()),
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_where_a_users_text_begins_and_ends_is_read_off_the_template(template):
    import small_models
    from transformers import PreTrainedTokenizerFast

    from ddmake.backends.userturn import begun

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=small_models.bpe(), pad_token="<pad>", eos_token="</s>")
    tokenizer.chat_template = template
    found, (before, ends, stop) = begun(tokenizer, [], "toy"), TEMPLATES[template]
    assert (tokenizer.decode(found.ids), found.ends, found.stop) == (before, ends, stop)


def test_a_users_turn_ends_where_its_own_end_is(tmp_path):
    """Also where that isn't what ends an answer: nothing does here."""
    import small_models
    from transformers import GenerationConfig

    from ddmake.backends.base import Request
    from ddmake.backends.hf import LocalModel

    folder = small_models.causal(tmp_path / "chat", chat=True)
    GenerationConfig(eos_token_id=[], pad_token_id=0).save_pretrained(folder)
    ended = {}
    for turn in ("user", "assistant"):
        model = LocalModel(folder, sampling={"temperature": 5.0, "max_tokens": 150})
        request = Request(() if turn == "user" else ({"role": "user", "content": "red"},), turn=turn)
        ended[turn] = [answer for _, answer in model.answers((number, number, request) for number in range(40))]
    assert {answer.finish_reason for answer in ended["assistant"]} == {"length"}
    assert {answer.finish_reason for answer in ended["user"]} == {"length", "stop"}
    assert all((answer.tokens_out < 150) == (answer.finish_reason == "stop") for answer in ended["user"])
