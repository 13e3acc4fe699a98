"""Links in a folder that is a source: what they lead to counts; one that leads nowhere holds up what is behind the folder."""

import os

import pytest

RULES = """
    @step("o", "docs")
    def o(docs):
        yield {"text": "".join(path.read_text() for path in sorted(docs.rglob("*")) if path.is_file())}

    @step("p")
    def p():
        yield {"x": 1}
"""


@pytest.fixture
def linked(project):
    project.write("docs/a.txt", "a")
    project.write("far/b.txt", "b")
    return project.ddfile(RULES)


def test_a_link_counts_by_what_it_leads_to(linked):
    (linked.root / "docs/link.txt").symlink_to("../far/b.txt")
    linked.make()
    assert linked.rows("o") == [{"text": "ab"}]
    assert linked.run("-n").verdicts() == {}
    linked.write("far/b.txt", "c")
    assert linked.run("-n").why("o") == "input docs changed"
    linked.make()
    assert linked.rows("o") == [{"text": "ac"}]
    (linked.root / "docs/link.txt").unlink()
    (linked.root / "docs/link.txt").write_text("c")
    assert linked.run("-n").verdicts() == {}, "a link and a copy are the same"


def test_a_link_to_a_folder_counts_by_what_is_in_it(linked):
    (linked.root / "docs/far").symlink_to(linked.root / "far")
    linked.make()
    linked.write("far/deep/d.txt", "d")
    assert linked.run("-n").verdicts() == {"o": "make"}


def _around(project):
    (project.root / "docs/far").symlink_to("../far")
    (project.root / "far/docs").symlink_to("../docs")


ODD = {
    "broken": (lambda project: (project.root / "docs/link.txt").symlink_to("gone.txt"), "docs/link.txt is a link to gone.txt, where no file is. Mend it"),
    "itself": (lambda project: (project.root / "docs/l").symlink_to("l"), "docs/l is a link to l, where no file is. Mend it"),
    "endless": (lambda project: (project.root / "docs/here").symlink_to("."), "docs/here is a link to ., a folder that it lies in. Take it out"),
    "above": (lambda project: (project.root / "docs/up").symlink_to(".."), "docs/up is a link to .., a folder that it lies in. Take it out"),
    "root": (lambda project: (project.root / "docs/root").symlink_to("/"), "docs/root is a link to /, a folder that it lies in. Take it out"),
    "around": (_around, "docs/far/docs is a link to ../docs, a folder that it lies in. Take it out"),
    "pipe": (lambda project: os.mkfifo(project.root / "docs/pipe"), "docs/pipe is a pipe, a socket or a device, whose contents can't be hashed. Take it out"),
}


@pytest.mark.parametrize("case", ODD)
def test_what_has_no_contents_holds_up_what_is_behind_it_alone(linked, case):
    spoil, told = ODD[case]
    spoil(linked)
    planned = linked.run("-n")
    assert planned.verdicts() == {"o": "waiting", "p": "make"}
    assert planned.why("o").startswith(told)
    linked.make()
    assert linked.rows("p") == [{"x": 1}]
    named = linked.run("o")
    assert named.code == 2 and named.output.startswith(f"Ddfile:4: o can't be made: {told}")


def test_a_result_holds_no_links(project):
    result = project.ddfile("""
        @step("o")
        def o(output):
            (output / "a").symlink_to("/etc/hostname")
    """).run()
    assert result.code == 1 and "an artifact holds plain files only. Write the contents there." in result.output
