"""Every mistake is one sentence with its place, a name and a remedy, exit code 2, and nothing runs."""

import json
import subprocess
import sys

import pytest

ROWS = "@step('data/a')\ndef a():\n    yield {'x': 1}\n"

MISTAKES = {
    "unknown argument of a recipe": (
        "generate('a', llm=llm('echo'), promt='x', n=1)", [], "Ddfile:3: generate has no argument 'promt'. Did you mean 'prompt'?"),
    "missing argument": ("generate('a', llm=llm('echo'), prompt='x')", [], "Ddfile:3: generate: missing a required argument: 'n'"),
    "wrong type": ("generate('a', llm=llm('echo'), prompt='x', n='many')", [], "Ddfile:3: generate's n takes int, not 'many' (str)."),
    "wrong choice": ("generate('a', llm=llm('echo'), prompt='x', n=1, on_error='ignore')", [],
                     "generate's on_error takes one of 'keep', 'drop', 'raise', not 'ignore'"),
    "llm given as a string": ("generate('a', llm='echo', prompt='x', n=1)", [], "Ddfile:3: generate's llm takes LLM, not 'echo' (str)."),
    "unknown parameter of llm": ("llm('echo', temprature=1.0)", [], "Ddfile:3: llm has no argument 'temprature'. Did you mean 'temperature'?"),
    "wrong type in llm": ("llm('echo', temperature='hot')", [], "Ddfile:3: llm's temperature takes float or None, not 'hot' (str)."),
    "unknown parameter in using": ("llm('echo').using(topp=1.0)", [], "llm().using has no argument 'topp'. Did you mean 'top_p'?"),
    "unknown backend": ("generate('a', llm=llm('opnai/gpt-4o'), prompt='x', n=1)", [],
                        "Ddfile:3: llm('opnai/gpt-4o'): there is no backend 'opnai'."),
    "wrong type in lora": ("lora(r='big')", [], "Ddfile:3: lora's r takes int, not 'big' (str)."),
    "unknown knob": ("config(n=1)\n" + ROWS, ["nn=3"], "Ddfile has no knob 'nn'. It has: n. Did you mean 'n'?"),
    "knob of the wrong type": ("config(n=1)\n" + ROWS, ["n=few"], "The knob n takes a whole number (its default is 1), not 'few'."),
    "boolean knob": ("config(fast=False)\n" + ROWS, ["fast=maybe"], "The knob fast takes true or false"),
    "knob that isn't declared is read": ("cfg = config(n=1)\ncfg.m", [], "Ddfile:4: there is no knob 'm' in config(n)."),
    "knob with spaces": (ROWS, ["n", "=", "3"], "A knob is written without spaces: n=3."),
    "--json without -n": (ROWS, ["--json"], "--json prints a plan: use it with -n."),
    "knob given twice": ("config(n=1)\n" + ROWS, ["n=1", "n=2"], "The knob 'n' is given twice."),
    "formatted target": (ROWS + "f'{a}/x'", [], "Ddfile:6: a target can't be formatted into a string (<target data/a>)"),
    "forgotten f": ("n = 1\n@step('data/{n}')\ndef a():\n    yield {}", [],
                    "Ddfile:4: the output 'data/{n}' has a brace in it, and n is a variable here: did you forget the f?"),
    "forgotten f in an input": ("n = 1\n@step('data/a', 'in/{n}')\ndef a(rows):\n    yield {}", [],
                                "Ddfile:4: the input 'in/{n}' has a brace in it, and n is a variable here: did you forget the f?"),
    "two rules for one path": (ROWS + ROWS.replace("def a", "def b"), [], "Ddfile:6: data/a is made by the rule at Ddfile:3 already"),
    "one output inside another": (ROWS + ROWS.replace("data/a", "data/a/b"), [],
                                  "Ddfile:6: data/a/b lies inside data/a, which the rule at Ddfile:3 makes. Give one of them another path."),
    "output outside of the project": (ROWS.replace("data/a", "../a"), [], "Ddfile:3: the output '../a' must lie in the Ddfile's folder"),
    "cycle": ("@step('a', 'b')\ndef a(b):\n    yield {}\n@step('b', 'a')\ndef b(a):\n    yield {}", [], "a cycle: a -> b -> a."),
    "missing template": ("generate('a', llm=llm('echo'), prompt=template('twet.j2'), n=1)", [],
                         "Ddfile:3: there is no template 'twet.j2' in templates/ beside the Ddfile, nor among ddmake's own. Did you mean 'tweet.j2'?"),
    "template's syntax": ("generate('a', llm=llm('echo'), prompt='{% if %}', n=1)", [], "Ddfile:3: the prompt, line 1:"),
    "template variable that nothing sets": ("generate('a', llm=llm('echo'), prompt='{{ topic }}', n=1)", [],
                                            "Ddfile:3: the prompt reads 'topic'. There are none."),
    "template variable that is no column": (
        "r = generate('a', llm=llm('echo'), prompt='x', n=1, column='abstract')\n"
        "transform('b', r, llm=llm('echo'), prompt='{{ abstrct }}')", [],
        "Ddfile:4: the prompt reads 'abstrct'. There are: abstract. Did you mean 'abstract'?"),
    "column to learn that isn't there": (
        "r = generate('a', llm=llm('echo'), prompt='x', n=1)\nfinetune('m', split('d', r), base='tiny-base', prompt='{{ text }}', completion='twet')", [],
        "Ddfile:4: m: there is no column 'twet' to learn. There are: text. Did you mean 'text'?"),
    "unknown metric": (
        "r = generate('a', llm=llm('echo'), prompt='x', n=1)\n"
        "evaluate('m', {'base': 'tiny-base'}, r, prompt='{{ text }}', reference='text', metrics=['rogue_l'])", [],
        "evaluate: there is no metric 'rogue_l'. There are rouge_l, exact_match"),
    "metrics in no list": (
        "r = generate('a', llm=llm('echo'), prompt='x', n=1)\n"
        "evaluate('m', {'base': 'tiny-base'}, r, prompt='{{ text }}', reference='text', metrics='rouge_l')", [],
        "Ddfile:4: evaluate's metrics takes a list of str"),
    "rows into a file that holds none": ("@step('a.txt')\ndef a():\n    yield {}", [], "Ddfile:3: a makes rows, which can't be written to .txt files"),
    "forgotten part": ("transform('b', split('d', jsonl('r', 'x.jsonl')), llm=llm('echo'), prompt='x')", [],
                       "Ddfile:3: one dataset is asked for, and <target d/train> has several outputs: name one of .train, .validation."),
    "view of a file": ("@step('a.csv')\ndef a():\n    yield {}\na.take(1)", [], "Ddfile:6: a.csv is a file and arrives as a path"),
    "wrong type in a view": (ROWS + "a.take('3')", [], "Ddfile:6: .take()'s n takes int, not '3' (str)."),
    "template's name as a prompt": ("generate('a', llm=llm('echo'), prompt='tweet.j2', n=1)", [],
                                    "Ddfile:3: the prompt 'tweet.j2' is a file's name. Write template('tweet.j2')."),
    "no rows asked for": ("generate('a', llm=llm('echo'), prompt='x', n=0)", [], "Ddfile:3: a: n is the number of rows, at least 1, not 0."),
    "target called": (ROWS + "a('b')", [], "Ddfile:6: <target data/a> is no recipe; @step without outputs makes one that can be called."),
    "target iterated": (ROWS + "list(a)", [], "Ddfile:6: <target data/a> is made later"),
    "alias named like a target": (ROWS + "alias('data/a', a)", [], "the alias 'data/a' is a target's path"),
    "view of a column that isn't there": (
        "r = generate('a', llm=llm('echo'), prompt='x', n=1)\ntransform('b', r.select('txt'), llm=llm('echo'), prompt='x')", [],
        "Ddfile:4: .select(): a has no column 'txt'. It has: text."),
    "too many inputs": (ROWS + "jsonl('b', a, a)", [], "Ddfile:6: jsonl takes 1 input (file) after its outputs, not 2."),
    "too few inputs": ("jsonl('b')", [], "Ddfile:3: jsonl takes 1 input (file) after its outputs, not 0."),
    "output that isn't there": ("split('data', jsonl('r', 'x.jsonl'), validation=0.1).test", [],
                                "Ddfile:3: data/train has no output 'test'; it has train, validation."),
    "split that leaves nothing": ("split('data', jsonl('r', 'x.jsonl'), validation=0.6, test=0.5)", [], "nothing is left to train on"),
    "unknown target": (ROWS, ["data/aa"], "No rule in Ddfile makes 'data/aa'. Did you mean 'data/a'?"),
    "alias named like a command": (ROWS + "alias('cards', a)", [], "Ddfile:6: an alias can't be named 'cards', which is a command."),
    "alias of nothing": (ROWS + "alias('x', 'data/b')", [], "Ddfile:6: the alias 'x' names 'data/b', which no rule in Ddfile makes."),
    "rule option as a recipe's parameter": ("@step('a')\ndef a(*, gpus=1):\n    yield {}", [], "recipe a has a parameter 'gpus'"),
    "recipe with *args": ("@step('a', 'b')\ndef a(*rows):\n    yield {}", [], "recipe a takes *rows; name each input and argument instead."),
    "no outputs": ("jsonl()", [], "Ddfile:3: jsonl takes first the path that it makes: jsonl('data/…', …)."),
    "rule option, misspelt": ("@step('a', cpu=2)\ndef a():\n    yield {}", [], "Ddfile:3: a has no argument 'cpu'. Did you mean 'cpus'?\n"),
    "knob of no plain type": ("config(n=object())", [], "Ddfile:3: the knob 'n' can't be object"),
    "glob among the inputs": ("@step('a', 'raw/*.txt')\ndef a(rows):\n    yield {}", [], "Ddfile:3: the input 'raw/*.txt' is a glob, and an input is one path."),
    "recipe that isn't imported": ("del split\nsplit('d', 'x')", [], "NameError: name 'split' is not defined. Do: from ddmake.rules import split"),
    "module, misspelt": ("import ddmake.rule", [], "ModuleNotFoundError: No module named 'ddmake.rule'. Did you mean 'ddmake.rules'?"),
    "module that isn't installed": ("import pandaz", [], "No module named 'pandaz'. Install it, or put it beside the Ddfile"),
    "exit": ("import sys\nsys.exit(1)", [], "Ddfile:4: exit() is called; a Ddfile only declares rules."),
    "command, misspelt": (ROWS, ["verfy"], "No rule in Ddfile makes 'verfy'. Did you mean 'verify'?"),
    "name of nothing": (ROWS, ["xyz"], "No rule in Ddfile makes 'xyz'. What there is: ddmake list"),
    "option, misspelt": (ROWS, ["--dryrun"], "No such option '--dryrun'. Did you mean '--dry-run'? See: ddmake --help"),
    "no jobs at once": (ROWS, ["-j", "0"], "0 is not in the range x>=1. See: ddmake --help"),
    "option of another command": (ROWS, ["list", "--resample"], "No such option '--resample'. See: ddmake list --help"),
    "option without its value": (ROWS, ["list", "--into"], "Option '--into' requires an argument."),
    "--only without a target": (ROWS, ["--only"], "--only needs a target: ddmake --only TARGET."),
    "syntax error": ("def (:", [], "Ddfile:3: invalid syntax: def (:"),
    "zero bytes": ("\0", [], "Ddfile: source code string cannot contain null bytes\n"),
    "name error": ("generat('a')", [], "Ddfile:3: NameError: name 'generat' is not defined. Did you mean 'generate'?"),
    "unknown recipe imported": ("from ddmake.rules import transfrm", [], "Ddfile:3: ImportError: ddmake.rules has no 'transfrm'. Did you mean 'transform'?"),
    "missing source, asked for by name": ("jsonl('b', 'x.jsonl')", ["b"], "Ddfile:3: b needs x.jsonl, which isn't there and which no rule makes."),
    "global that can't be hashed": ("import threading\nLOCK = threading.Lock()\n@step('a')\ndef a():\n    yield {'x': str(LOCK)}", [],
                                    "LOCK can't be hashed soundly"),
    "target read as a global": (ROWS + "@step('b')\ndef b():\n    yield {'x': repr(a)}", [], "reads the target <target data/a> from outside"),
    "package that isn't there": ("@step('a', packages=['nonesuch'])\ndef a():\n    yield {}", [], "packages names 'nonesuch', which isn't installed."),
    "columns= that is no function": ("@step(columns={'x': str})\ndef a():\n    yield {}", [],
                                     "Ddfile:3: @step's columns takes a function of (inputs, arguments), not {'x': <class 'str'>}."),
    "columns= that takes other arguments": ("@step(columns=lambda inputs: None)\ndef a():\n    yield {}\na('b')", ["-n"],
                                            "Ddfile:6: b: columns= of the recipe a failed: TypeError: <lambda>() takes 1 positional"),
    "columns= that fails": ("def told(inputs, arguments):\n    return arguments['y']\n@step(columns=told)\ndef a():\n    yield {}\na('b')", ["-n"],
                            "Ddfile:8: b: columns= of the recipe a failed (Ddfile:4): KeyError: 'y'"),
    "columns= that returns something else": ("@step('b', columns=lambda inputs, arguments: {'x': 'int64'})\ndef a():\n    yield {}", ["-n"],
                                             "Ddfile:3: b: columns= of the recipe a returned {'x': 'int64'}. Return a list"),
    "models in a list": ("evaluate('b', ['tiny'], 'in', prompt='x', reference='x')", ["-n"],
                         "Ddfile:3: b: evaluate: give a dict of names to models, and at least one"),
    "llms in a list": ("ultrafeedback('u', 'in', llms=[llm('echo'), llm('tiny')], judge=llm('echo'))", [],
                       'Ddfile:3: ultrafeedback\'s llms takes a dict of names to LLM, not a list. Give each a name: {"a": …, "b": …}.\n'),
    "instructions of another name": (
        "r = generate('r', llm=llm('echo'), prompt='x', n=1)\nultrafeedback('u', r, llms={'a': llm('echo'), 'b': llm('tiny')}, judge=llm('echo'))", ["-n"],
        "u/answers/a: there is no column 'instruction' of instructions (question= names another). There are: text."),
    "call outside of a Ddfile": ("from ddmake.ddfile.registry import loading\nloading.set(None)\nconfig(n=1)", [], "config() belongs in a Ddfile."),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake(project, name):
    text, args, expected = MISTAKES[name]
    result = project.ddfile(text).run(*args)
    assert expected in result.output
    assert result.code == 2
    assert "Traceback" not in result.output
    assert len(result.output.strip().splitlines()) == 1, "one sentence, on one line"
    assert not (project.root / "data").exists()


def test_no_ddfile_here(project):
    result = project.run()
    assert (result.code, result.output) == (2, "There is no Ddfile here. Name another with -f FILE.\n")


def test_a_ddfile_that_raises_is_told_by_its_own_line(project):
    project.write("helper.py", "def boom():\n    raise ValueError('no luck')\n")
    result = project.ddfile("import helper\nhelper.boom()").run()
    assert result.output == "helper.py:2: ValueError: no luck\n"
    assert result.code == 2


def test_a_ddfile_in_a_folder_above_or_of_nearly_this_name_is_named(project):
    project.ddfile("")
    (project.root / "a" / "b").mkdir(parents=True)
    below = type(project)(project.root / "a" / "b")
    assert below.run().output == "There is no Ddfile here. Did you mean '../../Ddfile'? Name another with -f FILE.\n"
    below.write("ddfile.py", "")
    assert below.run().output == "There is no Ddfile here. Did you mean 'ddfile.py'? Name another with -f FILE.\n"


def test_what_a_ddfile_prints_is_kept_out_of_what_ddmake_prints(project):
    project.ddfile("print('noise')\n" + ROWS)
    done = subprocess.run([sys.executable, "-m", "ddmake", "-n", "--json"], cwd=project.root, capture_output=True, text=True)
    assert json.loads(done.stdout)["rules"][0]["targets"] == ["data/a"]
    assert done.stderr == "noise\n"


@pytest.mark.parametrize("text, told", [
    ("", "declares no rules."),
    ("@step('{lang}/a')\ndef a():\n    yield {}", "has patterns only. Name a path that one makes, as in ddmake '{lang}/a'."),
])
def test_a_ddfile_that_makes_nothing_is_told(project, text, told):
    project.ddfile(text)
    assert project.make("-n").output == project.make().output == f"0 fresh. Nothing to do: Ddfile {told}\n"


def test_a_templates_unknown_variable_gets_the_nearest_column(project):
    project.ddfile("@step('a')\ndef a():\n    yield {'question': 'x'}\n"
                   "transform('b', a, llm=llm('echo'), prompt='{{ qestion }}')")
    assert "reads 'qestion'. There are: question. Did you mean 'question'?" in project.run().output


def test_a_failure_says_how_to_make_the_rest(project):
    rule = "@step('{0}')\ndef {0}():\n    {1}\n"
    project.ddfile(rule.format("a", "1 / 0") + rule.format("b", "yield {'x': 1}"))
    told = "1 target not run that could be: ddmake -k goes on after a failure."
    assert told in project.run("-j", "1").output
    assert told not in project.run("-j", "1", "-k").output
