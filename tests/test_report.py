"""`ddmake report`: one page that needs no network, holds what lies there, and lets nothing that others wrote be markup or script."""

import base64
import hashlib
import json
import os
import re
import shutil
import tomllib
import zlib
from html.parser import HTMLParser
from pathlib import Path

import chromium
import pytest
from chromium import Chromium
from conftest import Project

from ddmake.cards.private import LEFT_OUT
from ddmake.report.chart import chart
from ddmake.report.packed import packed
from ddmake.report.sections import curves

DDFILE = '''
    cfg = config(n=3, llm="echo", api_key="in-a-knob-1234")
    LIMIT = 3

    def clean(text):
        return text.strip()

    @step("data/a", "in.jsonl", about="What was read.")
    def a(file):
        """Read it."""
        import json
        for line in file.read_text().splitlines():
            yield {**json.loads(line), "size": LIMIT}

    asked = transform("data/asked", a, llm=llm(cfg.llm), prompt=template("ask.j2"), column="y")
    lost = transform("data/lost", a, llm=llm(cfg.llm), prompt="{{ x }}", column="z", parse=lambda text, row: int(text))

    @train("models/m", asked)
    def learn(rows, *, output):
        """Learn nothing."""
        import json
        output.mkdir(exist_ok=True)
        told = {"loss": 1.5, "loss_curve": [[1, 3.0], [2, 2.0], [3, float("nan")], [4, 1.5]], "eval_loss_curve": [[2, 2.5]]}
        (output / "config.json").write_text("{}")
        (output / "metrics.json").write_text(json.dumps(told))

    @step("out/wide.jsonl", asked)
    def wide(rows):
        return ({"x": row["x"], "n": number} for row in rows for number in range(150))

    @step("out/note.md", asked)
    def note(rows, *, output):
        output.write_text(f"# {len(rows)} rows of <b>note</b>")

    @step("out/dot.png", asked)
    def dot(rows, *, output):
        output.write_bytes(bytes.fromhex(
            "89504e470d0a1a0a0000000d4948445200000001000000010806000000" "1f15c4890000000d49444154789c63f8cfc0f01f0005000" "1ff89993d1d0000000049454e44ae426082"))

    @step("waits", "nowhere.csv")
    def waits(file):
        return []
'''
LINES = [{"x": "4 One <b>bold</b>"}, {"x": "12"}, {"x": "Two"}]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The workflow, made once; tests work on copies."""
    project = Project(tmp_path_factory.mktemp("report")).ddfile(DDFILE)
    project.write("templates/ask.j2", "Say {{ x }}\nnicely.\n")
    project.write("in.jsonl", "".join(json.dumps(line) + "\n" for line in LINES))
    assert "made 7" in project.run("-k").output
    return project


@pytest.fixture
def flow(made, tmp_path):
    project = Project(shutil.copytree(made.root, tmp_path / "flow"))
    project.run("-q")  # else the copy's Ddfile is a stranger's
    return project


class Page(HTMLParser):
    """What stands in a page: its tags with their attributes, its texts by the tag around them, and its packed rows."""

    def __init__(self, text: str):
        super().__init__()
        self.text, self.tags, self.said, self.inside = text, [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside.append(tag)

    def handle_endtag(self, tag):
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data):
        self.said.append((self.inside[-1] if self.inside else "", data))

    def all(self, tag, **attrs):
        return [had for name, had in self.tags if name == tag and attrs.items() <= had.items()]

    def words(self):
        return " ".join(" ".join(said for tag, said in self.said if tag not in ("script", "style")).split())

    def rows(self, title):
        """Return the columns and rows that are packed under a title."""
        packed = re.search(rf'<summary>{re.escape(title)}.*?</summary>.*?<script type="application/json">"(.*?)"</script>', self.text, re.S)
        head, *rows = zlib.decompress(base64.b64decode(packed[1]), 31).decode().split("\n")
        return json.loads(head)["columns"], [json.loads(row) for row in rows]


def report(project, *args):
    project.make("report", *args)
    return Page((project.root / "report.html").read_text())


# what is in it


def test_a_report_tells_of_every_rule(flow):
    page = report(flow)
    words = page.words()
    for told in ("data/a", "What was read.", "Read it.", "yield {**json.loads(line)", "# LIMIT = 3", "Say {{ x }}", "ask.j2", "waits", "3 rows",
                 "for nowhere.csv", "Knobs: n=3 llm=echo", "fresh", "waiting", "3 sent, 0 cached, 0 failed", "loss 1.5",
                 "Made with ddmake"):
        assert told in words, told
    assert [had["id"] for had in page.all("details", **{"class": "rule"})] == [f"rule-{n}" for n in range(1, 9)]
    assert len(page.all("svg", **{"class": "chart"})) == 1


def test_rows_lie_beside_what_was_asked(flow):
    page = report(flow)
    columns, rows = page.rows("Rows of data/asked")
    assert [(column["name"], column["given"]) for column in columns] == [("x", True), ("size", True), ("y", False)]
    assert [row[1] for row in rows] == [line["x"] for line in LINES] and rows[1][3].startswith("Say 12")
    columns, calls = page.rows("Prompts and answers: 3")
    assert calls[1][1] == ["turns", [["user", "Say 12\nnicely."]]] and calls[1][2] == rows[1][3]
    columns, failed = page.rows("Failed rows: 2")
    assert [row[0] for row in failed] == [0, 2] and "invalid literal" in failed[1][3]


def test_files_that_are_no_tables_are_shown(flow):
    page = report(flow)
    assert page.rows("File out/note.md: ")[1] == [[0, "# 3 rows of <b>note</b>"]]
    assert page.rows("File out/dot.png: 70 B")[1][0][1][0] == "image"
    (flow.root / "out/note.md").write_bytes(b"\x00" * 100_000)
    assert report(flow).rows("File out/note.md: 100 kB")[1] == [[0, "100 kB, binary"]]


def test_views_are_told_and_functions_that_are_arguments_shown(project):
    project.ddfile("""
        a = generate("a", llm=llm("echo"), prompt="x", n=5)
        transform("b", a.take(3).filter(lambda row: row["text"] != "z"), llm=llm("echo"), prompt="y", column="c", parse=lambda text, row: text.upper())
    """)
    project.make()
    words = report(project).words()
    assert "a .take(3).filter(…)" in words and "text.upper()" in words
    assert 'row["text"] != "z"' in words, "which rows a view leaves is told by its code alone"


def test_docstrings_are_told_without_the_width_of_their_file(project):
    project.ddfile('''
        @step("a")
        def a():
            """Make a row.

            A sentence that is
            longer than a line:
            - a point
            - another
            """
            return [{"x": 1}]
    ''').make()
    project.make("report")
    assert "A sentence that is longer than a line:\n- a point\n- another</p>" in (project.root / "report.html").read_text()


def test_a_graph_that_nobody_could_read_is_left_out(project):
    project.ddfile("""
        @step
        def job(inputs):
            return [{"x": 1}]
        layer = [job(f"a/{n}", []) for n in range(71)]
        for n in range(71):
            job(f"b/{n}", layer)
    """)
    project.make("a/0")
    page = report(project)
    assert not page.all("svg") and "too many arrows" in page.words()


@pytest.mark.parametrize(("args", "shown", "title"), [
    ((), 200, "Rows of out/wide.jsonl: first 200 of 450"),
    (("--rows", "450"), 450, "Rows of out/wide.jsonl: 450"),
    (("--rows", "0"), 0, "Rows of out/wide.jsonl: first 0 of 450"),
])
def test_as_many_rows_as_are_asked_for(flow, args, shown, title):
    assert len(report(flow, *args).rows(title)[1]) == shown


def test_targets_bring_what_they_were_made_of(flow):
    page = report(flow, "data/asked")
    assert re.findall(r"<h3>(.*?)</h3>", page.text.split('id="rules"')[1].split('id="cards"')[0]) == ["data/a", "data/asked"]
    assert flow.run("report", "data/none").code == 2


def test_curves_pass_over_what_is_no_number():
    found = curves({"loss_curve": [[1, 3.0], [2, float("nan")], ["a", 1], [3, 2]], "eval_loss_curve": [[3, 1]], "f1_curve": "x",
                    "loss": 3})
    assert found == {"loss": {"training": [(1.0, 3.0), (3.0, 2.0)], "validation": [(3.0, 1.0)]}}
    assert curves(["no dict"]) == {} and len(curves({"a_curve": [[i, i] for i in range(10_000)]})["a"]["training"]) <= 501


def test_a_chart_names_its_axes():
    svg = chart("<loss>", "step", {"training": [(1, 5), (2, 5)], "validation": [(1, 5)]})
    assert svg.count("&lt;loss&gt; by step") == 2 and ">step</text>" in svg and "<loss>" not in svg and "nan" not in svg
    assert ">validation</text>" in svg


# of today and of then


def test_it_speaks_of_what_lies_there_and_verdicts_of_today(flow):
    template = flow.root / "templates/ask.j2"
    template.write_text("Say {{ x }} crossly.")
    words = report(flow).words()
    assert "template ask.j2 changed" in words and "nicely." in words and "crossly" not in words.replace("template", "")


def test_what_no_rule_makes_any_more_is_past(flow):
    text = (flow.root / "Ddfile").read_text()
    (flow.root / "Ddfile").write_text(text.replace('"out/wide.jsonl"', '"out/other.jsonl"'))
    page = report(flow)
    assert len(page.all("span", **{"class": "verdict past"})) >= 1 and page.rows("Rows of out/wide.jsonl")


@pytest.mark.parametrize(("broken", "told"), [("x = 1 +", "Ddfile:"), (None, "There is no Ddfile here.")])
def test_without_a_sound_ddfile_there_are_no_verdicts(flow, broken, told):
    (flow.root / "Ddfile").unlink()
    if broken:
        flow.ddfile(broken)
    result = flow.make("report")
    assert "So the report has no verdicts." in result.output and told in result.output
    page = Page((flow.root / "report.html").read_text())
    assert f"No verdicts: {told}" in page.words() and page.rows("Rows of data/asked")[1] and not page.all("span", **{"class": "verdict fresh"})


def test_no_verdicts_runs_nothing_of_the_project(flow):
    (flow.root / "Ddfile").write_text("open('ran', 'w')\n")
    flow.make("report", "--no-verdicts")
    assert not (flow.root / "ran").exists()
    page = Page((flow.root / "report.html").read_text())
    assert page.rows("Rows of data/asked")[1] and "return text" not in page.words()
    words = report(flow, "--no-verdicts", "data/asked").words()
    assert "data/a" in words and "out/wide" not in words


def test_outputs_that_are_gone_or_damaged_are_passed_over(flow):
    shutil.rmtree(flow.root / "data/asked")
    (flow.root / "data/a/state.json").write_text("{")
    (flow.root / "out/wide.jsonl").write_text('{"x": "1"}\n' * 30 + "{broken\n")
    page = report(flow, "--no-verdicts")
    assert "Rows of data/asked" not in page.text and "Rows of data/a:" not in page.text
    assert "Rows of out/wide.jsonl" not in page.text


def test_rows_end_where_a_file_is_damaged_and_say_so(flow):
    lines = ['{"x": "1", "n": 1}'] * 1200
    (flow.root / "out/wide.jsonl").write_text("\n".join([*lines, "{broken"]) + "\n")
    rows = report(flow, "--rows", "1300").rows("Rows of out/wide.jsonl: 1,201")[1]
    assert len(rows) == 1201 and rows[-1][0] == 1200 and rows[-1][1].startswith("(from here on it can't be read: ")


# mistakes


@pytest.mark.parametrize(("args", "code", "told"), [
    (["--rows", "-1"], 2, "--rows"),
    (["-o", "no/such/folder/x.html"], 2, "-o x.html: No such file or directory. Name a file in a folder that is there."),
    (["-o", "Ddfile"], 2, "-o Ddfile is there, and is something else: only an HTML page is written over. Name another file."),
    (["-o", "/dev/null"], 2, "-o null is no plain file: only an HTML page is written over."),
    (["-o", "data/a/report.html"], 2, "the report would lie in data/a, which would count as edited"),
    (["data/askd", "--no-verdicts"], 2, "Nothing was ever made at 'data/askd'. Did you mean 'data/asked'?"),
    (["k=1"], 2, "no knob 'k'"),
])
def test_mistakes_are_told_in_a_sentence(flow, args, code, told):
    result = flow.run("report", *args)
    assert result.code == code and told in result.output and len(result.output.splitlines()) == 1
    assert not list(flow.root.glob("*.html"))


def test_there_is_nothing_to_report_before_anything_was_made(project):
    project.ddfile('generate("g", llm=llm("echo"), prompt="x", n=1)')
    result = project.run("report")
    assert result.code == 2 and "Nothing was made" in result.output and not (project.root / ".ddmake").exists()


# what others wrote

PAYLOADS = [
    "</script><script>document.title = 'owned'</script>", "<img src=x onerror=\"document.title='owned'\">", "javascript:alert(1)",
    "<a href='javascript:document.title=1'>x</a>", "--><svg onload=alert(1)>", "{{ 7*7 }} {% raw %}", "\u202egnihtemos\u2066", "\x07\x1b[31mred\x00",
    "line\u2028separator\u2029", "]]>", "&lt;b&gt;", "' onmouseover='x", "https://example.org/x.png",
]
HOSTILE = '''
    PAYLOADS = {payloads!a}

    @step("data/<img src=x>", about=PAYLOADS[0])
    def hostile():
        """</script><script>document.title = 'owned'</script> <img src=x onerror=alert(1)>"""
        for text in PAYLOADS:
            yield {{"<b>" + "col": text, "nan": float("nan"), "nested": {{"turn": [text]}}, "bytes": b"\\x89PNG" + bytes(60),
                   "chat": [{{"role": "<i>user</i>", "content": text}}], "vector": [0.5] * 300, "long": "é" * 30_000}}

    asked = transform("data/asked", hostile.rename(**{{"<b>col": "col"}}), llm=llm("echo"), prompt="{{{{ col }}}} </pre><script>1</script>", column="y")
'''
SAFE = {"#summary", "#results", "#graph", "#timeline", "#rules", "#cards", "#main"}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("hostile")).ddfile(HOSTILE.format(payloads=PAYLOADS))
    project.make()
    project.make("report")
    return project


def test_nothing_that_others_wrote_is_markup(hostile):
    page = Page((hostile.root / "report.html").read_text(encoding="utf-8"))
    assert not page.all("img") and not page.all("iframe") and not page.all("form") and not page.all("link")
    assert {had.get("type", "js") for had in page.all("script")} == {"js", "application/json"}
    assert not any(name.startswith("on") or name in ("src", "action", "srcdoc") for _, had in page.tags for name in had)
    assert all(had["href"] in SAFE or re.fullmatch(r"#rule-\d+", had["href"]) for had in page.all("a"))
    assert not set(page.text) & {"\x00", "\x07", "\x1b", "\u202e", "\u2066", "\u2028"}
    assert "<img src=x onerror=alert(1)>" in page.words() and "</script><script>document.title" in page.words()


def test_the_policy_allows_this_script_alone(hostile):
    page = Page((hostile.root / "report.html").read_text(encoding="utf-8"))
    policy = page.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    script = re.findall(r"<script>(.*?)</script>", page.text, re.S)
    assert len(script) == 1 and "default-src 'none'" in policy and "'unsafe-eval'" not in policy
    assert f"script-src 'sha256-{base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()}'" in policy
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|Function\(|srcdoc", script[0])


def test_values_of_every_kind_can_be_shown(hostile):
    page = Page((hostile.root / "report.html").read_text(encoding="utf-8"))
    columns, rows = page.rows("Rows of data/&lt;img src=x&gt;")
    assert [column["name"] for column in columns][:2] == ["<b>col", "nan"]
    number, text, nan, nested, image, chat, vector, long = rows[0]
    assert (text, nan, chat) == (PAYLOADS[0], "nan", ["turns", [["<i>user</i>", PAYLOADS[0]]]])
    assert image[0] == "image" and image[1].startswith("data:image/png;base64,") and vector[1].endswith("… 300 numbers]")
    assert long.endswith("… 10,000 more characters") and PAYLOADS[0] in json.loads(nested[1])["turn"]


def test_half_a_character_reaches_the_script_as_it_is():
    lines = zlib.decompress(base64.b64decode("".join(packed({"x": "string"}, [], [(7, ["half \ud83d"])], str))), 31).decode()
    assert lines.splitlines()[1] == r'[7, "half \ud83d"]'


def test_secrets_and_folders_of_this_machine_are_left_out(project, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "zebra-zebra-zebra")
    monkeypatch.setenv("HOME", str(project.root.parent))
    key = "sk-" + "a1b2" * 8
    project.ddfile(f'''
        KEY = "{key}"

        @step("data/a")
        def a():
            import os
            yield {{"x": os.environ["SOME_API_KEY"], "y": KEY, "z": os.path.expanduser("~/notes.txt"), "root": os.path.abspath("a.txt"), "q": "{project.root}x"}}

        asked = transform("data/b", a, llm=llm("echo"), prompt="{{{{ x }}}} {project.root}/p.txt", column="w")
    ''')
    project.make()
    page = report(project)
    assert page.rows("Rows of data/a")[1] == [[0, LEFT_OUT, LEFT_OUT, "~/notes.txt", "./a.txt", f"~/{project.root.name}x"]]
    whole = page.text + json.dumps([page.rows(title) for title in ("Rows of data/b", "Prompts and answers")])
    assert "zebra" not in whole and key not in whole and f"{project.root}/" not in whole and "./p.txt" in page.words()


def test_a_knob_named_like_a_secret_is_left_out(flow):
    assert "in-a-knob" not in report(flow).text


def test_paths_outside_of_a_project_that_isnt_run_are_not_read(flow):
    import sqlite3

    (flow.root.parent / "private.jsonl").write_text('{"x": "private-row"}\n')
    db = sqlite3.connect(flow.root / ".ddmake/traces.db")
    db.execute("UPDATE placed SET path = '../private.jsonl' WHERE path = 'out/wide.jsonl'")
    db.commit()
    assert "Rows of ../private.jsonl" not in report(flow, "--no-verdicts").text


# in a browser

browser = pytest.mark.skipif(chromium.PATH is None, reason="no Chromium here: the report is looked at in one")


@pytest.fixture(scope="module")
def driver():
    with Chromium() as found:
        found.size(1280, 900)
        yield found


def shown(driver: Chromium, project: Project, part: str = "") -> Chromium:
    driver.errors.clear()
    driver.requests.clear()
    driver.open("about:blank")
    driver.open(f"{(project.root / 'report.html').as_uri()}{part}")
    return driver


@browser
def test_no_payload_runs_and_nothing_is_fetched(driver, hostile):
    page = shown(driver, hostile, "#rule-1")
    page.until("document.querySelectorAll('.record').length === 10")
    page.run("document.querySelectorAll('details').forEach(part => part.open = true)")
    page.until("document.querySelectorAll('.record').length >= 30")
    assert page.run("document.title") == f"{hostile.root.name} · ddmake report"
    assert page.errors == [] and [url for url in page.requests if not url.startswith(("file:", "data:", "about:"))] == []
    assert page.run("[...document.querySelectorAll('.record .said')].map(said => said.textContent)[0]") == PAYLOADS[0]
    assert page.run("document.querySelectorAll('.record a, .record script, .record b').length") == 0
    text = page.run("document.getElementById('rule-1').textContent")
    assert "\\u202egnihtemos\\u2066" in text and "\\u0007\\u001b[31mred\\u0000" in text and "\u202e" not in text
    assert page.run("document.querySelector('.record img').src").startswith("data:image/png;base64,")
    assert page.run(r"printable('a\ud83d b\ude00 \ud83d\ude00')") == "a\\ud83d b\\ude00 \N{GRINNING FACE}"


@browser
def test_rows_are_paged_and_searched(driver, flow):
    flow.make("report")
    page = shown(driver, flow, "#rule-5")
    page.until("document.querySelectorAll('.record').length === 10")
    where = "document.querySelector('#rule-5 .where').textContent"
    first = "document.querySelector('#rule-5 .record .number').textContent"
    buttons = "document.querySelectorAll('#rule-5 .tools button')"
    assert page.run(where) == "1–10 of 200" and page.run(f"{buttons}[0].disabled") is True
    page.run(f"{buttons}[1].click()")
    assert page.run(where) == "11–20 of 200" and page.run(first) == "10"
    page.run("document.querySelector('#rule-5 .tools input').focus()")
    page.type("ONE <B>")
    assert page.run(where) == "1–10 of 150 found" and page.run("document.querySelector('#rule-5 mark').textContent") == "One <b>"
    page.press("Escape")
    assert page.run(where) == "1–10 of 200"
    page.type("no such word")
    assert page.run(where) == "Nothing found" and page.errors == []


@browser
def test_prompt_and_answer_stand_side_by_side(driver, flow):
    flow.make("report")
    page = shown(driver, flow, "#rule-2")
    page.until("document.querySelectorAll('#rule-2 .record').length === 3")
    given, made = (f"document.querySelectorAll('#rule-2 .record')[1].querySelector('.side.{side}')" for side in ("given", "made"))
    assert "Say 12\nnicely." in page.run(f"{given}.textContent") and "Say 12" in page.run(f"{made}.textContent")
    assert page.run(f"{made}.getBoundingClientRect().left >= {given}.getBoundingClientRect().right")
    page.size(390, 800)
    assert page.run(f"{made}.getBoundingClientRect().top >= {given}.getBoundingClientRect().bottom")
    page.size(1280, 900)


@browser
def test_it_is_used_by_keyboard(driver, flow):
    flow.make("report")
    page = shown(driver, flow)
    page.press("Tab")
    assert page.run("document.activeElement.className") == "skip" and page.run("document.activeElement.getBoundingClientRect().left") >= 0
    page.press("/")
    page.type("ask.j2")
    assert page.run("document.activeElement.id") == "find" and page.run("document.getElementById('hits').textContent") == "1 of 8 rules"
    assert page.run("[...document.querySelectorAll('.rule:not([hidden])')].map(rule => rule.id).join()") == "rule-2"
    page.press("Escape")
    assert page.run("document.querySelectorAll('.rule[hidden]').length") == 0
    page.run("document.querySelector('nav [data-rule=\"rule-2\"] a').focus()")
    page.press("Enter")
    page.until("document.getElementById('rule-2').open && document.activeElement === document.querySelector('#rule-2 > summary')")
    page.press("Enter")
    page.until("!document.getElementById('rule-2').open")
    assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"


@browser
@pytest.mark.parametrize("dark", [False, True])
def test_it_has_contrast_in_light_and_dark(driver, flow, dark):
    """Text has 4.5 times the luminance of what is behind it, or the other way round (WCAG 2.2, 1.4.3)."""
    flow.make("report")
    driver.dark(dark)
    page = shown(driver, flow, "#rule-2")
    page.until("document.querySelectorAll('#rule-2 .record').length === 3")
    assert page.run(CONTRAST) == []
    page.run("document.getElementById('theme').click()")
    assert page.run("document.getElementById('theme').getAttribute('aria-pressed')") == ("false" if dark else "true")
    assert page.run(CONTRAST) == []
    page.run("localStorage.clear()")
    driver.dark(False)


CONTRAST = """(() => {
  const pen = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgb = colour => { pen.clearRect(0, 0, 1, 1); pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1); return [...pen.getImageData(0, 0, 1, 1).data]; };
  const light = ([r, g, b]) => [r, g, b].map(c => c / 255).map(c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
    .reduce((sum, c, at) => sum + c * [.2126, .7152, .0722][at], 0);
  const behind = part => { for (; part; part = part.parentElement) { const found = rgb(getComputedStyle(part).backgroundColor); if (found[3] === 255) return found; } return [255, 255, 255, 255]; };
  return [...document.querySelectorAll('body *')].filter(part => !part.closest('svg, script, style, [hidden], button:disabled') && part.checkVisibility()
    && [...part.childNodes].some(node => node.nodeType === 3 && node.textContent.trim())).flatMap(part => {
    const [one, other] = [light(rgb(getComputedStyle(part).color)), light(behind(part))].sort((a, b) => b - a);
    return (one + .05) / (other + .05) < 4.5 ? [part.tagName + '.' + part.className + ' ' + part.textContent.slice(0, 30)] : [];
  });
})()"""


@browser
def test_it_fits_a_phone(driver, flow):
    flow.make("report")
    driver.size(360, 740)
    page = shown(driver, flow, "#rule-2")
    page.until("document.querySelectorAll('#rule-2 .record').length === 3")
    page.run("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert page.run("document.documentElement.scrollWidth") <= 360
    driver.size(1280, 900)


def test_there_is_a_browser_where_the_suite_is_run_for_good():
    assert chromium.PATH is not None or not os.environ.get("CI"), "CI looks at the report in Chromium: apt-get install chromium"


def test_the_pages_parts_are_in_the_package():
    top = Path(__file__).parent.parent
    packed = tomllib.loads((top / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["*"]
    for file in (top / "ddmake/report").iterdir():
        assert file.suffix == ".py" or file.is_dir() or any(file.match(pattern) for pattern in packed), file.name
