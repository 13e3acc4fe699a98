"""The versions of installed packages."""

import importlib.metadata
import os
import sys

import pytest

from ddmake.fingerprint.packages import version


def test_every_installed_package_has_the_version_that_pip_would_tell():
    found = {each.name: importlib.metadata.version(each.name) for each in importlib.metadata.distributions()}
    assert {name: version(name) for name in found} == found and len(found) > 50


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path / "missing"), str(tmp_path / "a.zip"), str(tmp_path), *sys.path])
    (tmp_path / "a.zip").write_text("")
    return tmp_path


def record(file, told: str) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"Metadata-Version: 2.1\nName: x\nVersion: {told}\n\nVersion: of the description\n")


@pytest.mark.parametrize("file", ["My_Package-1.0.dist-info/METADATA", "my.package-1.0-py3.11.egg-info/PKG-INFO", "My_Package.egg-info/PKG-INFO",
                                  "my_package-1.0.egg-info"])
@pytest.mark.parametrize("asked", ["my-package", "My.Package", "my__package"])
def test_names_are_compared_as_pip_does(folder, file, asked):
    record(folder / file, "1.0.post2")
    assert version(asked) == importlib.metadata.version("my-package") == "1.0.post2"


def test_the_first_on_the_path_counts_and_an_upgrade_is_seen(folder):
    before = version("jinja2")
    record(folder / "jinja2-0.5.dist-info" / "METADATA", "0.5")
    os.utime(folder, (1, 1))
    assert version("jinja2") == "0.5" != before
    (folder / "jinja2-0.5.dist-info").rename(folder / "jinja2-0.6.dist-info")
    record(folder / "jinja2-0.6.dist-info" / "METADATA", "0.6")
    assert version("jinja2") == "0.6"


def test_what_is_not_installed_or_half_gone_has_none(folder):
    (folder / "gone-1.0.dist-info").mkdir()
    assert version("gone") is None and version("no-such-package") is None
