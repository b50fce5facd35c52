"""The first cell: it finds the project, and gets it where there is none; and the link that opens Colab."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tools.notebooks import build

ADDRESS = "https://github.com/someone/something"


@pytest.fixture
def colab(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """A folder without the project, on what looks like Colab; the commands that were run."""
    ran: list[list[str]] = []

    def run(command: list[str], check: bool) -> None:
        ran.append(command)
        if command[0] == "git":
            Path(command[-1]).mkdir()

    monkeypatch.setattr(build, "REPOSITORY", ADDRESS)
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setitem(sys.modules, "google.colab", object())
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    return ran


def test_on_colab_the_first_cell_gets_the_project(colab, tmp_path, capsys):
    exec(build.setup(), {})
    assert colab[0] == ["git", "clone", "--quiet", "--depth", "1", ADDRESS, str(tmp_path / "vbw-np")]
    needs = [need for need in importlib.metadata.requires("vbw-np") if "extra ==" not in need]
    assert colab[1][1:4] == ["-m", "pip", "install"] and len(colab) == 2
    assert sorted(colab[1][5:]) == sorted(needs) and needs  # what the project itself asks for
    assert sys.path[0] == str(tmp_path / "vbw-np") and capsys.readouterr().out == ""
    exec(build.setup(), {})
    assert [command[0] for command in colab].count("git") == 1  # a second run clones nothing


def test_it_says_when_to_restart(colab, monkeypatch, capsys):
    versions = iter((["2.1.3"], ["2.4.6"]))
    monkeypatch.setattr(
        importlib.metadata, "distributions", lambda name: [SimpleNamespace(version=v) for v in next(versions)]
    )
    exec(build.setup(), {})
    assert "Restart session, then run this cell again" in capsys.readouterr().out


def test_where_numpy_was_not_there_nothing_is_to_be_restarted(colab, monkeypatch, capsys):
    versions = iter(([], ["2.4.6"]))
    monkeypatch.setattr(
        importlib.metadata, "distributions", lambda name: [SimpleNamespace(version=v) for v in next(versions)]
    )
    exec(build.setup(), {})
    assert capsys.readouterr().out == ""


def test_elsewhere_nothing_is_fetched(colab, monkeypatch):
    monkeypatch.delitem(sys.modules, "google.colab")
    exec(build.setup(), {})
    monkeypatch.setattr(build, "REPOSITORY", "")
    monkeypatch.setitem(sys.modules, "google.colab", object())
    exec(build.setup(), {})
    assert colab == []


@pytest.mark.parametrize("address", [ADDRESS, f"{ADDRESS}.git", f"{ADDRESS}/"])
def test_every_notebook_has_a_link_to_colab_once_there_is_an_address(address, monkeypatch):
    for source in build.sources():
        assert "colab.research" not in build.heading(source)
        monkeypatch.setattr(build, "REPOSITORY", address)
        link = f"https://colab.research.google.com/github/someone/something/blob/main/notebooks/{source.name}.ipynb"
        assert f"[Open in Colab]({link})" in build.heading(source)
        cells = json.loads(build.rendered(source))["cells"]
        assert f'REPOSITORY = "{address}"' in "".join(cells[1]["source"])
        monkeypatch.setattr(build, "REPOSITORY", "")
