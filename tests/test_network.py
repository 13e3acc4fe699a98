"""Projects on network file systems."""

import fcntl
import threading
import time

import pytest

from ddmake.engine import heads
from ddmake.store.network import networked

MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/sdb1 /home/me/fast xfs rw 0 0
scratch@tcp:/fs /big\\040disk lustre rw,flock 0 0
me@host:/ /mnt/far fuse.sshfs rw 0 0
"""


@pytest.fixture
def mounts(tmp_path):
    file = tmp_path / "mounts"
    file.write_text(MOUNTS)
    return str(file)


@pytest.mark.parametrize(("folder", "expected"), [
    ("/var/x", False), ("/home", True), ("/home/me/project", True), ("/home/me/fast/project", False), ("/homely", False),
    ("/big disk/a", True), ("/mnt/far/a", True),
])
def test_which_folders_are_on_a_network(mounts, tmp_path, folder, expected):
    assert networked(tmp_path.__class__(folder), mounts) is expected


def test_databases_have_a_rollback_journal_there_also_those_that_were_made_elsewhere(project, monkeypatch):
    project.ddfile("@step('a')\ndef a():\n    return [{'x': 1}]\n").make()
    database = project.root / ".ddmake" / "traces.db"
    assert _journal(database) == "wal"
    (project.root / "mounts").write_text(f"server:/p {project.root} nfs4 rw 0 0\n")
    monkeypatch.setattr("ddmake.store.database.networked", lambda folder: networked(folder, str(project.root / "mounts")))
    assert project.run("-n", "-v").verdicts() == {"a": "fresh"}
    assert _journal(database) == "delete"


def _journal(database):
    """Return what a database's header says: https://sqlite.org/fileformat.html, bytes 18 and 19."""
    return {b"\1\1": "delete", b"\2\2": "wal"}[database.read_bytes()[18:20]]


def test_who_makes_a_target_on_another_machine_is_named_with_it(project):
    project.ddfile("@step('a')\ndef a():\n    return [{'x': 1}]\n").make()
    locks = [lock.open("r+") for lock in (project.root / ".ddmake" / "locks").glob("*.lock")]
    for lock in locks:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("4711 node-7".ljust(80))
        lock.flush()
    head = project.command("--force")
    try:
        told = iter(head.stdout.readline, "")
        assert any("a: waiting for process 4711 on node-7, which is making it" in line for line in told)
    finally:
        for lock in locks:
            lock.close()
    assert head.wait() == 0


@pytest.fixture
def far(project, monkeypatch):
    """Have a project lie on a network file system; give a file of another machine's head."""
    monkeypatch.setattr(heads, "networked", lambda folder: True)
    monkeypatch.setattr(heads, "LOOK", 1.0)
    project.ddfile("@step('a')\ndef a():\n    return [{'x': 1}]\n")
    (project.root / ".ddmake" / "heads").mkdir(parents=True)
    return project.root / ".ddmake" / "heads" / "node-7-0123456789ab"


def test_a_head_that_lives_elsewhere_and_whose_locks_are_not_seen_is_named(project, far):
    over = threading.Event()

    def live():
        while not over.wait(0.1):
            far.write_text(f"{time.monotonic()}")

    far.write_text("0")
    other = threading.Thread(target=live)
    other.start()
    result = project.run()
    over.set()
    other.join()
    assert result.code == 1 and "node-7 makes something of this project at this moment" in result.output
    assert not (project.root / "a").exists() and [file.name for file in far.parent.iterdir()] == [far.name]


def test_what_a_dead_head_elsewhere_has_left_is_cleared_away(project, far):
    far.write_text("5")
    project.make()
    assert list(far.parent.iterdir()) == []


def test_a_head_elsewhere_whose_locks_are_seen_is_no_matter(project, far):
    with far.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        project.make()
        assert project.rows("a") == [{"x": 1}] and list(far.parent.iterdir()) == [far]


def test_a_head_goes_on_showing_that_it_lives(project, far, monkeypatch):
    monkeypatch.setattr(heads, "EVERY", 0.05)
    project.ddfile("""
        @step("a")
        def a():
            import time
            from pathlib import Path
            seen = set()
            for _ in range(20):
                seen.update(file.read_text() for file in Path(".ddmake/heads").iterdir())
                time.sleep(0.05)
            return [{"seen": len(seen)}]
    """).make()
    assert project.rows("a")[0]["seen"] > 5
