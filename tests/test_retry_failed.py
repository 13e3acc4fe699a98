"""`--retry-failed`: rows without a usable answer are sent again; the others cost nothing, and what is behind is decided by content."""

import json
import shutil

import pytest

TEXT = """
    @step("rows")
    def rows():
        yield from ({{"x": f"word {{i}}"}} for i in range({n}))

    def parse(text, row):
        if row["x"] in {odd}:
            raise ValueError("odd")
        return text

    said = transform("said", rows, llm=llm("openai/toy", base_url="{url}", max_tokens=9), column="{column}", prompt="Say {{{{ x }}}}"{more})

    @step("count", said)
    def count(said):
        return [{{"n": sum(row["{column}"] is not None for row in said)}}]
"""


def workflow(project, service, n=20, odd=(), column="said", more=""):
    return project.ddfile(TEXT.format(n=n, odd=odd, url=service.url, column=column, more=more))


def lost(project):
    return [one["number"] for one in json.loads(project.make("show", "said", "--failed", "--json", "-n", "99").output)["shown"]]


def empty(project):
    return [number for number, row in enumerate(project.rows("said")) if row["said"] is None]


@pytest.mark.slow
def test_only_failed_rows_are_sent_again(project, service):
    service.fail(0.3, "400")
    workflow(project, service).make()
    failed = empty(project)
    assert 0 < len(failed) < 20 and lost(project) == failed
    assert project.run("-n").verdicts() == {}, "failed rows alone make nothing stale"
    service.fail(0.0)
    told = project.run("-n", "--retry-failed")
    assert told.verdicts() == {"said": "make", "count": "maybe"}
    assert told.why("said") == f"{len(failed)} failed rows are sent again"
    before = service.counts()["requests"]
    assert f"{len(failed)} sent, {20 - len(failed)} cached" in project.make("--retry-failed").output
    assert service.counts()["requests"] - before == len(failed)
    assert empty(project) == lost(project) == []
    assert project.rows("count") == [{"n": 20}]
    assert project.run("-n", "--retry-failed").verdicts() == {}, "without a failed row it stays fresh"


def test_rows_that_fail_again_leave_what_is_behind_fresh(project, service):
    service.fail(0.3, "400")
    workflow(project, service).make()
    before = lost(project)
    service.fail(1.0, "400")
    output = project.make("--retry-failed").output
    assert "made 1, fresh 2" in output, "the same rows again: nothing behind them changes"
    assert lost(project) == before


@pytest.mark.parametrize("finish", ["length", "content_filter"])
def test_unusable_answers_are_asked_anew_and_replaced(project, service, finish):
    """Cut and refused answers are kept, since they were paid; the new ones take their places."""
    service.fail(0.0, finish=finish)
    workflow(project, service, n=3, more=f", accept=[{finish!r}]").make()
    assert service.counts()["requests"] == 3
    workflow(project, service, n=3)
    service.fail(0.0, finish="stop")
    project.make("--retry-failed", "said")
    assert service.counts()["requests"] == 6
    workflow(project, service, n=3, column="again").make("said")
    assert service.counts()["requests"] == 6, "what is known now is the new answers"
    assert [row["again"] for row in project.rows("said")] == ["SAY WORD 0", "SAY WORD 1", "SAY WORD 2"]


def test_rows_that_a_parser_refused_are_sent_again(project, service):
    workflow(project, service, n=6, odd=("word 2",), more=", parse=parse").make()
    assert lost(project) == [2]
    told = json.loads(project.make("show", "said", "--failed", "--json").output)["shown"][0]
    assert "odd" in told["reason"] and told["answer"] == "SAY WORD 2" and told["row"] == {"x": "word 2"}
    before = service.counts()["requests"]
    project.make("--retry-failed", "said")
    assert service.counts()["requests"] > before
    assert lost(project) == [2]


def test_only_named_targets_are_sent_again_and_no_deleted_one_is_restored(project, service):
    service.fail(0.3, "400")
    workflow(project, service).make()
    assert project.run("-n", "--retry-failed", "count").verdicts() == {}
    assert project.run("-n", "--retry-failed", "said").verdicts() == {"said": "make"}
    shutil.rmtree(project.root / "said")
    assert project.run("-n").verdicts()["said"] == "restore"
    assert project.run("-n", "--retry-failed").verdicts()["said"] == "make"


def test_a_deleted_result_without_failed_rows_is_restored(project):
    project.ddfile('generate("said", llm=llm("echo"), prompt="x", n=3)').make()
    shutil.rmtree(project.root / "said")
    assert "restored 1" in project.make("--retry-failed").output
