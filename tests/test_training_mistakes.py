"""What is wrong with a training is said in a sentence: when it is planned, as it starts, or in its log where it can go on."""

import re
import shutil

import pytest
import torch
from conftest import Project
from preference_runs import pairs
from safetensors.torch import load_file

from ddmake import toys

GIVEN = """
    pairs = rows("pairs", values=[{"prompt": "x", "chosen": "a", "rejected": "b"}])
    texts = rows("texts", values=[{"prompt": "x", "completion": "a"}])
    lines = rows("lines.jsonl", values=[{"prompt": "x", "completion": "a"}])
"""
NAMES = "There are: constant, constant_with_warmup, cosine, cosine_with_restarts, inverse_sqrt, linear, polynomial."
PLANNED = {  # what is asked for, and what is said of it
    "finetune('m', texts, base='tiny', schedule='cosin')": f"schedule='cosin': there is none of that name. {NAMES} Did you mean 'cosine'?",
    "dpo('m', pairs, base='tiny', schedule='reduce_lr_on_plateau')": "schedule='reduce_lr_on_plateau': there is none of that name.",
    "finetune('m', texts, base='tiny', warmup=-0.1)": "warmup=-0.1; it is at least 0.",
    "orpo('m', pairs, base='tiny', warmup=1.5)": "warmup=1.5; it is a share of all steps below 1, or a whole number of steps.",
    "kto('m', pairs, base='tiny', chosen='chosen', rejected='rejected', seed=-1)": "seed=-1; it is from 0 to 4294967295.",
    "finetune('m', texts, base='tiny', seed=2**32)": "seed=4294967296; it is from 0 to 4294967295.",
    "reward_model('m', pairs, base='tiny', weight_decay=-0.1)": "weight_decay=-0.1; it is at least 0.",
    "dpo('m', pairs, base='tiny', max_grad_norm=-1.0)": "max_grad_norm=-1.0; it is at least 0.",
    "finetune('m', texts, base='tiny', epochs=float('nan'))": "epochs=nan; it is above 0.",
    "finetune('m', texts, base='tiny', learning_rate=float('inf'))": "learning_rate=inf; it is above 0.",
    "finetune('m', 'in.jsonl', base='tiny')":
        'm: in.jsonl arrives as a path, and rows are needed. Read it by jsonl("data/…", "in.jsonl").',
    "dpo('m', {'train': pairs, 'validation': 'in.csv'}, base='tiny')": 'Read it by csv("data/…", "in.csv").',
    "kto('m', 'kept', base='tiny')": 'Read it by saved("data/…", "kept").',
    "finetune('m', 'notes.pdf', base='tiny')": "notes.pdf arrives as a path, and rows are needed. Read it by a @step that yields rows.",
    "finetune('m', lines, base='tiny')": "m: lines.jsonl arrives as a path, and rows are needed. Give that output no suffix.",
    "transform('m', 'in.jsonl', llm=llm('echo'), prompt='x')": 'm: in.jsonl arrives as a path, and rows are needed.',
}
FITTING = (
    "finetune('m', texts, base='tiny', schedule='cosine', warmup=0, weight_decay=0.0, max_grad_norm=0.0, seed=2**32 - 1)",
    "dpo('m', {'train': pairs}, base='tiny', warmup=10, schedule='constant')",
)


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("planned"))
    for name in ("in.jsonl", "in.csv", "notes.pdf", "kept/state.json"):
        project.write(name, "")
    return project


@pytest.mark.parametrize("call", PLANNED)
def test_a_mistake_is_told_when_it_is_planned(planned, call):
    found = planned.ddfile(f"{GIVEN}    {call}\n").run("-n")
    assert found.code == 2 and PLANNED[call] in found.output and "Traceback" not in found.output, found.output


@pytest.mark.parametrize("call", FITTING)
def test_what_fits_is_planned(planned, call):
    assert planned.ddfile(f"{GIVEN}    {call}\n").make("-n").verdicts()["m"] == "maybe"


def test_a_file_that_is_not_there_is_waited_for(planned):
    assert planned.ddfile("    finetune('m', 'no.jsonl', base='tiny')\n").run("-n").verdicts()["m"] == "waiting"


ASK, ANSWER = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}
CHATS = {  # by what is wrong: a row's chat, and what is said of it
    "text": ("hi", "holds a str; a list of turns is needed, each {\"role\": \"user\", \"content\": \"…\"}. Make it by .map()."),
    "texts": (["hi"], "holds a list of str; a list of turns is needed"),
    "nothing": ([], "holds no turns."),
    "no content": ([{"role": "user"}, ANSWER], "turn 0, has no content. Write one by .map(), or leave the row out by .filter()."),
    "null": ([ASK, {"role": "assistant", "content": None}], "turn 1, has no content."),
    "parts": ([{"role": "user", "content": [{"type": "text"}]}], "turn 0, has a content of list; text is needed."),
    "ShareGPT's roles": ([{"role": "human", "content": "hi"}, {"role": "gpt", "content": "ho"}],
                         "turn 0, has the role 'human'. There are: assistant, developer, function, ipython, system, tool, user. "
                         "Did you mean 'user'? Rename it by .map()."),
    "ShareGPT's keys": ([{"from": "human", "value": "hi"}], "turn 0, has no role; it has from, value. Make it"),
    "user last": ([ASK, ANSWER, ASK], "ends with a turn of the role 'user', and what is learned is an assistant's. Cut the last turn "
                                      "off by .map(), or leave the row out by .filter()."),
}


@pytest.mark.parametrize("name", CHATS)
def test_a_chat_that_cannot_be_learned_is_named_by_its_row(name):
    from datasets import Dataset

    from ddmake.errors import DdmakeError
    from ddmake.rules.training import examples

    chat, said = CHATS[name]
    with pytest.raises(DdmakeError, match=re.escape(f"finetune: row 1: column 'chat'{',' if said.startswith('turn') else ''} {said}")):
        examples(Dataset.from_list([{"chat": None}, {"chat": chat}]), None, "completion", "chat")


CALL = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": {"name": "now", "arguments": {}}}]}
TOOLS = "{% for m in messages %}{% for c in m.tool_calls or [] %}call {{ c.function | tojson }} {% endfor %}{{ m['content'] + '\n' }}{% endfor %}"


@pytest.mark.parametrize("template, shown", [
    (TOOLS, 'hi\ncall {"name": "now", "arguments": {}} \n12:00\nho\n'),
    ("{% for m in messages %}{{ m['content'] + '\n' }}{% endfor %}", None),
    (None, None),
])
def test_calls_of_tools_are_learned_or_refused(tmp_path, capsys, template, shown):
    import small_models
    from datasets import Dataset

    from ddmake.backends.loading import load_tokenizer
    from ddmake.errors import DdmakeError
    from ddmake.rules.training import examples
    from ddmake.trainers.causal import Encoder
    from ddmake.trainers.common import Settings

    tokenizer = load_tokenizer(small_models.causal(tmp_path / "chat", chat=True))
    tokenizer.chat_template = template
    encoder = Encoder(tokenizer, [tokenizer.eos_token_id], Settings(tmp_path / "chat", "chat", 1e-3), 999)
    chats = [[ASK, CALL, {"role": "tool", "content": "12:00", "tool_call_id": "1"}, ANSWER]]
    row = examples(Dataset.from_dict({"chat": chats}), None, "completion", "chat")[0]
    if shown is None:
        with pytest.raises(DdmakeError, match="base chat: its chat template has no place for tool_calls, which turns hold. Take a base"):
            encoder(row)
    else:
        assert tokenizer.decode(encoder(row)["input_ids"]).startswith(shown)
        assert "no place for 'tool_call_id' of a turn, which is left out" in capsys.readouterr().out


@pytest.mark.parametrize("target, said", [
    ("lm_head", "base chat writes by its module 'lm_head'. Its linear ones: down_proj, gate_proj, "),
    ("norm", "base chat takes no adapter on its module 'norm'."),
    ("q_prj", "base chat has no module 'q_prj'. Its linear ones: down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj. "
              "Did you mean 'q_proj'?"),
    ("embed_tokens", None),
    ("q_proj", None),
])
def test_modules_that_take_no_adapter_are_refused(tmp_path, target, said):
    import small_models

    from ddmake.ddfile.specs import Lora
    from ddmake.errors import DdmakeError
    from ddmake.trainers.common import Settings, load_base

    folder = small_models.causal(tmp_path / "chat", chat=True)
    settings = Settings(folder, "chat", 1e-3, peft=Lora(4, 8, 0.0, (target,)))
    if said is None:
        load_base(settings)
    else:
        with pytest.raises(DdmakeError, match=re.escape(f"lora(targets=): {said}")):
            load_base(settings)


@pytest.mark.parametrize("warmup, steps, found", [
    (0.1, 1, 0), (0.1, 9, 0), (0.1, 10, 1), (0.03, 100, 3), (0.99, 1, 0), (0.99, 10, 9), (0, 5, 0), (2, 5, 2), (4, 5, 4),
    (5, 5, 4), (50, 2, 1), (1, 1, 0),
])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup",
                                      "inverse_sqrt"])
def test_the_learning_rate_rises_before_the_last_step(capsys, warmup, steps, found, schedule):
    """So that no training learns nothing, and a short one without a warm-up of its own learns from its first step on."""
    from transformers import get_scheduler

    from ddmake.trainers.common import Settings, warmup_steps

    assert warmup_steps(Settings("x", "x", 1e-3, warmup=warmup), steps) == found
    assert bool(capsys.readouterr().out) == (warmup >= steps)
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], 1e-3)
    scheduler, rates = get_scheduler(schedule, optimizer, found, steps), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert max(rates) > 9e-4 and (rates[0] > 0) == (found == 0 or schedule == "constant")


@pytest.mark.parametrize("kind, rows, said", [
    ("dpo", [("a", "b"), ("a", "a"), ("1", 1)], "dpo: 'chosen' and 'rejected' are equal in 2 of 3 rows of train, which prefer nothing"),
    ("dpo", [("a", "b")], ""),
    ("kto", [("a", "a"), ("a", "b")], "kto: 'chosen' and 'rejected' are equal in 1 of 2 rows of train, which prefer nothing"),
    ("label", [("a", True), ("b", True)], "kto: no answer of train is undesirable, and it learns by both"),
    ("label", [("a", False)], "kto: no answer of train is desirable, and it learns by both"),
    ("label", [("a", False), ("b", True)], ""),
])
def test_rows_that_prefer_nothing_are_told(capsys, kind, rows, said):
    from datasets import Dataset

    from ddmake.rules.aligning import Shown

    given = Dataset.from_list([{"prompt": "x", "chosen": chosen, "rejected": str(other), "label": other is True}
                               for chosen, other in rows])
    shown = Shown("kto", None, {"completion": "chosen"}, label="label") if kind == "label" else \
        Shown(kind, None, {"chosen": "chosen", "rejected": "rejected"})
    shown.parts(given)
    assert capsys.readouterr().out.strip() == said


@pytest.mark.parametrize("row, said", [
    ({"margin": float("nan")}, "reward_model: row 1: column 'margin' holds nan; a number is needed."),
    ({"margin": float("inf")}, "reward_model: row 1: column 'margin' holds inf; a number is needed."),
    ({"chosen": "b"}, "reward_model: 'chosen' and 'rejected' are equal in all 2 rows of train. Give answers that differ."),
])
def test_rows_that_nothing_can_be_learned_of_are_refused(row, said):
    from datasets import Dataset

    from ddmake.errors import DdmakeError
    from ddmake.rules.aligning import Shown

    first = {"prompt": "x", "chosen": "b" if "chosen" in row else "a", "rejected": "b", "margin": 1.0}
    shown = Shown("reward_model", None, {"chosen": "chosen", "rejected": "rejected"}, margin="margin")
    with pytest.raises(DdmakeError, match=re.escape(said)):
        shown.parts(Dataset.from_list([first, {**first, **row}]))


@pytest.mark.slow
def test_one_step_learns_and_the_summary_tells_how_well(project):
    """The line of a training has what it is on held-out rows, and else on its own."""
    project.ddfile(f"""
        six = rows("six", values={pairs(6)!r})
        texts = six.rename(chosen="completion")
        preferred = dpo("preferred", six, base="./base", learning_rate=5e-3)
        watched = reward_model("watched", {{"train": six, "validation": six}}, base="./base", learning_rate=5e-3)
        tuned = finetune("tuned", texts, base="./base", warmup=50, epochs=2)
    """)
    shutil.copytree(toys.folder("tiny-base"), project.root / "base")
    printed = project.make("-j", "1").output
    before, after = (load_file(project.root / name / "model.safetensors") for name in ("base", "preferred"))
    assert any(not torch.equal(after[name], before[name]) for name in before)
    assert re.search(r"^ *preferred +train_accuracy \S+; train_loss \S+; ", printed, re.MULTILINE), printed
    assert re.search(r"^ *watched +eval_accuracy \S+; eval_loss \S+; ", printed, re.MULTILINE), printed
    assert re.search(r"^ *tuned +train_loss \S+; ", printed, re.MULTILINE), printed
    assert "warmup=50 would take all steps of this training, 2: it takes 1" in project.logs()
