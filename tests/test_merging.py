"""What jobs were answered on other machines, taken into the project's calls: once, be it done again, and nothing in halves."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from ddmake.backends.base import Answer, Request
from ddmake.calls.cache import FILE, Calls
from ddmake.calls.merging import merge
from ddmake.errors import DdmakeError


def answered(folder: Path, **answers: str) -> Path:
    """Write a database of calls."""
    folder.mkdir(exist_ok=True)
    calls = Calls(folder)
    for key, text in answers.items():
        calls.put(key.encode() * 16, Request(({"role": "user", "content": key},)), Answer(text))
    calls.close()
    return folder


def known(folder: Path) -> dict[str, str]:
    """Return the answers that can be read, by key."""
    calls = Calls(folder)
    try:
        with closing(sqlite3.connect(folder / FILE)) as db:
            keys = [key for key, in db.execute("SELECT key FROM calls") if len(set(key)) == 1]  # and not what was put aside
        return {key.decode()[0]: str(answer) for key, answer in calls.get(keys).items()}
    finally:
        calls.close()


def test_calls_are_taken_in_once_and_what_was_known_counts(tmp_path):
    project, one, other = (answered(tmp_path / name, **answers) for name, answers in
                           {"project": {"a": "old"}, "one": {"a": "new", "b": "first"}, "other": {"b": "second", "c": "third"}}.items())
    for part in (one, other, one, other):
        merge(project, part)
    assert known(project) == {"a": "old", "b": "first", "c": "third"}


def test_calls_asked_anew_take_the_place_of_what_was_known(tmp_path):
    project, part = answered(tmp_path / "project", a="old"), answered(tmp_path / "part", a="new")
    for _ in range(2):
        merge(project, part, anew=True)
    assert known(project) == {"a": "new"}


@pytest.mark.parametrize("damage", ["not a database at all " * 100, "halved"])
def test_a_database_that_cannot_be_read_is_named_and_the_project_has_what_it_had(tmp_path, damage):
    project, part = answered(tmp_path / "project", a="old"), answered(tmp_path / "part", **{letter: "x" * 20_000 for letter in "bcdef"})
    file = part / FILE
    file.write_bytes(file.read_bytes()[:file.stat().st_size // 2] if damage == "halved" else damage.encode())
    with pytest.raises(DdmakeError, match=str(file)):
        merge(project, part)
    assert known(project) == {"a": "old"}
