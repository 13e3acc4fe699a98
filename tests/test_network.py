"""Projects on network file systems."""

import pytest

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
