"""Wildcards: what a pattern makes, when it is bound, and what is said where it can't be."""

import pytest

LANGUAGES = """
    abstracts = jsonl("{lang}/abstracts", "{lang}.jsonl")

    @step("{lang}/tweets", abstracts)
    def tweets(rows, *, lang):
        for row in rows:
            yield {"tweet": f"{lang}: {row['text']}"}
"""


@pytest.fixture
def languages(project):
    for lang in ("de", "fr"):
        project.write(f"{lang}.jsonl", f'{{"text": "{lang} text"}}\n')
    return project


def test_a_pattern_is_bound_by_name(languages):
    languages.ddfile(LANGUAGES)
    assert languages.make("-n").output.startswith("0 fresh"), "unbound, it makes nothing"
    languages.make("fr/tweets")
    assert languages.rows("fr/tweets") == [{"tweet": "fr: fr text"}]
    assert not (languages.root / "de").exists()
    assert languages.make("-n", "-v", "fr/tweets").verdicts() == {"fr/abstracts": "fresh", "fr/tweets": "fresh"}


BINDING = {
    "by .bind()": ('german = tweets.bind(lang="de")', [], {"de/abstracts", "de/tweets"}),
    "each binding is declared once": ('tweets.bind(lang="de")\ntweets.bind(lang="de")', [], {"de/abstracts", "de/tweets"}),
    "by a string among the inputs": ('@step("both", ["fr/tweets", "de/tweets"])\ndef both(parts):\n    yield {}', [],
                                     {"both", "de/abstracts", "de/tweets", "fr/abstracts", "fr/tweets"}),
    "by a view of it": ('@step("{lang}/few", tweets.take(2))\ndef few(rows):\n    yield from rows\nfew.bind(lang="fr")', [],
                        {"fr/abstracts", "fr/tweets", "fr/few"}),
    "by an alias": ('alias("all", "fr/abstracts")', [], {"fr/abstracts"}),
    "by name, with a detour": ("", ["./de//abstracts"], {"de/abstracts"}),
    "in a loop": ('last = tweets\nfor n in range(3):\n    @step(f"{{lang}}/{n}", last)\n    def last(rows):\n        yield {}\n', ["fr/2"],
                  {"fr/abstracts", "fr/tweets", "fr/0", "fr/1", "fr/2"}),
    "a list that grew later": ('names = []\n@step("{lang}/all", names)\ndef every(parts):\n    yield {}\nnames.append(tweets)', ["fr/all"], {"fr/all"}),
    "a rule wins": ('@step("fr/tweets")\ndef own():\n    yield {"tweet": "mine"}\n', ["fr/tweets"], {"fr/tweets"}),
    "a model by its name": ('@step("{lang}/model", tweets)\ndef model(rows, *, output):\n    pass\n'
                            'evaluate("scores", {"a": "de/model"}, "de/tweets", prompt="x", reference="tweet")', ["scores"],
                            {"scores", "de/model", "de/tweets", "de/abstracts"}),
}


@pytest.mark.parametrize("case", BINDING)
def test_binding(languages, case):
    text, names, bound = BINDING[case]
    languages.ddfile("").write("Ddfile", (languages.root / "Ddfile").read_text() + _dedented(LANGUAGES) + text)
    assert set(languages.make("-n", "-v", *names).verdicts()) == bound


def _dedented(text):
    return "\n".join(line[4:] for line in text.splitlines()) + "\n"


def test_a_dict_of_outputs_and_named_outputs(languages):
    languages.ddfile(LANGUAGES + """
    parts = split("{lang}/parts", tweets, validation=0.5)

    @step({"short": "{lang}/short", "long": "{lang}/long"}, parts.train)
    def cut(rows):
        return {"short": [{"x": 1}], "long": [{"x": 2}]}
    """)
    shown = languages.make("-n", "fr/long").verdicts()
    assert list(shown) == ["fr/abstracts", "fr/tweets", "fr/parts/train", "fr/parts/validation", "fr/short", "fr/long"]


def test_constraints_and_wildcards_that_stand_twice(project):
    project.ddfile("""
    @step("round-{round:\\\\d+}/{name}/{name}.jsonl")
    def numbered(*, round):
        yield {"round": round}
    """)
    project.make("round-12/a/a.jsonl")
    assert project.lines("round-12/a/a.jsonl") == [{"round": "12"}]
    for wrong in ("round-x/a/a.jsonl", "round-1/a/b.jsonl", "round-1/a/b/a/b.jsonl"):
        assert f"No rule in Ddfile makes '{wrong}'." in project.run("-n", wrong).output


def test_a_template_sees_the_wildcards_that_it_reads_and_depends_on_no_others(languages):
    languages.ddfile("""
    @step("{lang}/rows")
    def start():
        yield {"x": 1}

    transform("{lang}/asked", start, llm=llm("echo"), prompt="{{ lang }} {{ x }}")
    transform("{lang}/same", start, llm=llm("echo"), prompt="{{ x }}")
    """)
    languages.make("fr/asked", "fr/same")
    assert languages.rows("fr/asked")[0]["text"].strip() == "fr 1"
    told = languages.make("-n", "-v", "de/asked", "de/same")
    assert told.verdicts() == {"de/rows": "restore", "de/asked": "make", "de/same": "restore"}


def test_long_chains_of_patterns_are_bound_without_recursion(project):
    project.ddfile("""
    last = "{lang}.jsonl"
    for n in range(3000):
        last = jsonl(f"{{lang}}/{n}", last)
    """)
    project.write("fr.jsonl", '{"x": 1}\n')
    assert project.make("-n", "fr/2999").output.endswith("0 fresh. Make 1, maybe 2999.\n")


R = "\ndef a(rows):\n    yield {}\n"
MISTAKES = {
    "two patterns": ('@step("{lang}/a")\ndef a():\n    yield {}\n@step("fr/{name}")\ndef b():\n    yield {}', ["fr/a"],
                     "Ddfile:6: fr/a fits two patterns, fr/{name} and {lang}/a at Ddfile:3."),
    "without end": ('@step("{x}", "{x}.src")' + R.replace("rows", "rows, *, output"), ["-n", "a"],
                    "Ddfile:3: the pattern {x} is made of itself without end: a.src.src.src.src.src.src.src.src.src.sr… Constrain its wildcard, as in {x:[a-z]+}."),
    "without end, and rows": ('@step("{x}", "{x}.src")' + R, ["-n", "a"],
                              "Ddfile:3: the pattern {x} fits a.src, a file that a can't write its rows to. Constrain its wildcard"),
    "without end, twice as many each time": ('@step("{x}", ["{x}.a", "{x}.b"])' + R.replace("rows", "rows, *, output"), ["-n", "a"],
                                             "is made of itself without end"),
    "an input's wildcard that no output has": ('@step("{lang}/a", "{long}/b")' + R, [],
                                              "Ddfile:3: the input '{long}/b' has the wildcard {long}, which no output has; they have lang. Did you mean 'lang'?"),
    "a wildcard in a rule's input": ('@step("a", "{long}/b")' + R, [],
                                     "Ddfile:3: the input '{long}/b' has the wildcard {long}, and the outputs have none: did you forget the f?"),
    "a pattern in a rule's input": ('b = jsonl("{x}/b", "{x}.jsonl")\n@step("a", b)' + R, [],
                                    "Ddfile:4: <pattern {x}/b> is a pattern and makes nothing until it is bound: use .bind(x=…)"),
    "a view of one": ('b = jsonl("{x}/b", "{x}.jsonl")\n@step("a", b.take(1))' + R, [], "Ddfile:4: <pattern {x}/b> is a pattern"),
    "an alias of one": ('b = jsonl("{x}/b", "{x}.jsonl")\nalias("c", b)', [], "Ddfile:4: <pattern {x}/b> is a pattern"),
    "outputs that differ": ('@step({"a": "{x}/a", "b": "{y}/b"})\ndef a():\n    yield {}', [],
                            "Ddfile:3: the outputs '{x}/a' and '{y}/b' differ in their wildcards."),
    "a bad constraint": ('@step("{x:(}/a")\ndef a():\n    yield {}', [], "Ddfile:3: the wildcard {x:(} has a constraint that is no regular expression: missing )"),
    "an empty constraint": ('@step("{x:}/a")\ndef a():\n    yield {}', [], "Ddfile:3: the wildcard {x:} has a constraint that is no regular expression: it is empty"),
    "a constraint in an input": ('@step("{x}/a", "{x:a+}/b")' + R, [], "Ddfile:3: the input '{x:a+}/b' constrains a wildcard; do that in the output."),
    "two constraints": ('@step("{x:a+}/{x:b+}")\ndef a():\n    yield {}', [], "Ddfile:3: the output '{x:a+}/{x:b+}' constrains {x} twice."),
    "no name": ('@step("{n + 1}/a")\ndef a():\n    yield {}', [],
                "Ddfile:3: the output '{n + 1}/a' has {n + 1} in it, which is no wildcard's name: did you forget the f?"),
    "half a brace": ('@step("a}/b")\ndef a():\n    yield {}', [], "Ddfile:3: the output 'a}/b' has a brace too many."),
    "a variable of the function around": ('def make(n):\n    @step("{n}/a")\n    def a():\n        yield {}\nmake(1)', [],
                                          "Ddfile:4: the output '{n}/a' has a brace in it, and n is a variable here: did you forget the f?"),
    "bind lacks a wildcard": ('a = jsonl("{x}/{y}", "in.jsonl")\na.bind(x="1")', [], "Ddfile:4: .bind() lacks a value for 'y', a wildcard of <pattern {x}/{y}>."),
    "bind has another name": ('a = jsonl("{lang}/a", "in.jsonl")\na.bind(lang="fr", lng="fr")', [],
                              "Ddfile:4: <pattern {lang}/a> has no wildcard 'lng'. Did you mean 'lang'? .bind() takes: lang."),
    "bind doesn't fit": ('a = jsonl("{x:[a-z]+}/a", "in.jsonl")\na.bind(x=3)', [], "Ddfile:4: x='3' doesn't fit the wildcards of <pattern {x}/a>."),
    "unknown argument": ('@step\ndef b(rows, *, i: int):\n    yield {}\nb("{x}/b", "c", j=1)', [], "Ddfile:6: b has no argument 'j'."),
    "missing argument": ('@step\ndef b(rows, *, i: int):\n    yield {}\nb("{x}/b", "c")', [], "Ddfile:6: b: missing a required argument: 'i'."),
    "wrong type": ('@step\ndef b(rows, *, i: int):\n    yield {}\nb("{x}/b", "c", i="1")', [], "Ddfile:6: b's i takes int, not '1' (str)."),
    "too many inputs": ('jsonl("{x}/b", "c", "d")', [], "Ddfile:3: jsonl takes 1 input (file) after its outputs, not 2."),
    "a source that isn't there, named by a pattern": ('jsonl("{x}/b", "{x}.jsonl")', ["fr/b"], "Ddfile:3: fr/b needs fr.jsonl, which isn't there"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake(project, name):
    text, args, expected = MISTAKES[name]
    result = project.ddfile(text).run(*args)
    assert expected in result.output
    assert (result.code, len(result.output.splitlines())) == (2, 1)


@pytest.mark.parametrize("name", ["*/tweets", "?r/tweets", "{lang}/tweets"])
def test_a_glob_is_no_value_of_a_wildcard(languages, name):
    result = languages.ddfile(LANGUAGES).run("-n", name)
    assert (result.code, result.output) == (2, f"No rule in Ddfile makes '{name}'. What there is: ddmake list\n")


def test_list_names_patterns(languages):
    output = languages.ddfile(LANGUAGES).make("list").output
    assert output.splitlines()[-2:] == ["pattern  {lang}/abstracts  jsonl", "pattern  {lang}/tweets     tweets"]
