"""What the docs show is true: their Ddfiles load, their commands exist, their links lead somewhere."""

import re
from pathlib import Path

import pytest

from ddmake import load

TOP = Path(__file__).parent.parent
PAGES = [TOP / "README.md", *sorted((TOP / "docs").glob("**/*.md"))]


def ddfiles():
    for page in PAGES:
        for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)):
            if "config(" in block or "# Ddfile" in block:
                yield pytest.param(block, id=f"{page.name}-{number}")


@pytest.mark.parametrize("text", list(ddfiles()))
def test_a_ddfile_in_the_docs_loads(text, tmp_path):
    (tmp_path / "Ddfile").write_text(text)
    assert load(tmp_path / "Ddfile").targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / link).exists(), link


def test_the_manual_names_every_option(project):
    manual = (TOP / "docs" / "manual.md").read_text() + (TOP / "README.md").read_text()
    helped = project.run("make", "--help").output
    for option in re.findall(r"(?:^| )(-[^h]),", helped):
        assert f"{option} " in manual or f"`{option}`" in manual, option


def test_every_recipe_is_in_the_manual():
    from ddmake import rules

    manual = (TOP / "docs" / "manual.md").read_text()
    for name in rules.__all__:
        assert f"`{name}(" in manual, name
    assert all(getattr(one, "function", one).__doc__ for one in map(rules.__dict__.get, rules.__all__))
