"""The site for a static host: what is in it, without a browser."""

from __future__ import annotations

import html
import json
import re
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("mistune", reason='the docs extra is not installed: pip install --editable ".[docs]"')

from tools.notebooks import build, widgets
from tools.site import build as site
from tools.site import run
from vbw_np.teach.browser import Session, save_notebook
from vbw_np.teach.runner import read_notebook

SOURCES = build.sources()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    site.write_site(out, site.PUBLIC, check=False, players=False)
    return out


def test_every_cell_is_on_its_page_and_can_be_changed(folder: Path) -> None:
    for source in SOURCES:
        text = (folder / site.run_name(source)).read_text("utf-8")
        areas = [html.unescape(a) for a in re.findall(r"<textarea[^>]*>(.*?)</textarea>", text, re.S)]
        cells = [c for c in build.notebook(source)["cells"] if c["cell_type"] == "code"]
        assert areas == ["".join(c["source"]) for c in cells]
        assert re.findall(r'<section class="cell[^"]*" data-id="([^"]*)" data-number="(\d+)"', text) == [
            (c["id"], str(n)) for n, c in enumerate(cells, 1)
        ]
        assert text.count("<h1") == 1 and site.PUBLIC in text


def test_what_pages_lead_to_is_there(folder: Path) -> None:
    executed = {f"{source.name}.html" for source in SOURCES}  # copied from docs/, where tests hold them
    for page in folder.glob("*.html"):
        for target in re.findall(r'(?:href|src)="([^":#]+)(?:#[^"]*)?"', page.read_text("utf-8")):
            assert (folder / target).is_file() or target in executed, f"{page.name}: {target}"


def test_the_archive_has_what_the_packages_need_and_is_the_same_again(folder: Path, tmp_path: Path) -> None:
    site.write_archive(tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == (folder / "vbw.zip").read_bytes()
    names = zipfile.ZipFile(folder / "vbw.zip").namelist()
    assert {"vbw_np/engine.py", "autograd/tape.py", "vbw_np/steps/player.js", "docs/ptq.md"} <= set(names)
    assert not any("__pycache__" in name or name.endswith((".nbi", ".nbc", ".pyc")) for name in names)


def test_the_executed_page_leads_to_the_one_that_runs() -> None:
    for source in SOURCES:
        text = site.read_page(source)
        assert f'href="{site.run_name(source)}"' in text
    stale = build.Source(SOURCES[0].name, SOURCES[0].front | {"title": "another"}, SOURCES[0].cells)
    with pytest.raises(site.SiteError, match="not made from this notebook; run: make docs"):
        site.read_page(stale)


def distribution(folder: Path, version: str = site.VERSION) -> Path:
    """A folder that looks like Pyodide."""
    packages = {"numpy": {"file_name": "numpy.whl", "depends": []},
                "matplotlib": {"file_name": "matplotlib.whl", "depends": ["numpy", "Pillow"]},
                "pillow": {"file_name": "pillow.whl", "depends": []}}  # fmt: skip
    for name in (*site.CORE, "numpy.whl", "matplotlib.whl", "pillow.whl", "other.whl"):
        (folder / name).write_text("")
    (folder / "pyodide-lock.json").write_text(json.dumps({"info": {"version": version}, "packages": packages}))
    return folder


def test_a_local_pyodide_is_copied_and_only_what_is_needed(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    source = distribution(tmp_path / "in")
    assert site.place_pyodide(str(source), tmp_path / "out") == "pyodide/"
    assert {p.name for p in (tmp_path / "out" / "pyodide").iterdir()} == {
        *site.CORE, "numpy.whl", "matplotlib.whl", "pillow.whl",
    }  # fmt: skip
    (source / "pillow.whl").unlink()
    with pytest.raises(site.SiteError, match=r"lacks pillow\.whl"):
        site.needed_files(source)
    with pytest.raises(site.SiteError, match=r"holds Pyodide 0\.1; this site is made for"):
        site.needed_files(distribution(source, "0.1"))


def test_what_is_no_site_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(site.SiteError, match="holds something that is no site"):
        site.write_site(tmp_path, site.PUBLIC)
    with pytest.raises(site.SiteError, match="holds no Pyodide"):
        site.write_site(tmp_path / "new", str(tmp_path))
    assert not (tmp_path / "new").exists() and (tmp_path / "thesis.txt").read_text() == "mine"


def test_the_times_in_the_documentation_are_those_that_were_kept() -> None:
    text = (site.ROOT / "docs" / "browser.md").read_text("utf-8")
    assert run.table() in text
    names = [row.split()[1] for row in run.table().splitlines()[2:]]
    assert names == [source.name for source in SOURCES]


# ---- what the page calls in Python


def test_a_session_runs_cells_and_says_what_came_of_them() -> None:
    heard: list[str] = []
    session = Session("02_e2m1", heard.append)

    def run(number: int, source: str, metadata: str = "{}") -> dict:
        return json.loads(session.run(number, source, metadata))

    first = run(1, "x = 3\nprint('hello')\nx + 1")
    assert (first["stdout"], first["value"], first["html"], first["error"]) == ("hello\n", "4", None, None)
    assert "".join(heard) == "hello\n"
    shown = run(2, "from vbw_np import viz\nviz.tape(lambda a: a * a, a=2.0)")
    assert shown["html"].startswith("<figure") and shown["value"] is None
    wrong = run(3, "def f():\n    return 1 / 0\nf()")
    assert wrong["error"].splitlines()[1] == '  File "<02_e2m1, cell 3>", line 3, in <module>'
    assert "ZeroDivisionError" in wrong["error"] and "runner.py" not in wrong["error"]
    assert run(4, "x")["value"] == "3"
    covered = run(5, "from vbw_np.teach import predict\nguess = None\npredict(guess, 5)")
    assert covered["unguessed"] and not run(6, "guess = 5\npredict(guess, 5)")["unguessed"]


def test_a_readers_cells_are_saved_as_a_notebook(tmp_path: Path) -> None:
    document = build.rendered(SOURCES[2])
    cell = next(c for c in build.notebook(SOURCES[2])["cells"] if c["metadata"].get("vbw"))
    save_notebook(str(tmp_path / "saved"), "02.ipynb", document, json.dumps({cell["id"]: "mine = 1\nyours = 2"}))
    cells = read_notebook(tmp_path / "saved" / "02.ipynb")
    assert [c.source for c in cells if c.exercise].count("mine = 1\nyours = 2") == 1
    assert sum(c.source == "mine = 1\nyours = 2" for c in cells) == 1


def test_every_widget_has_a_place_and_every_place_a_widget(folder: Path) -> None:
    for source in SOURCES:
        text = (folder / site.run_name(source)).read_text("utf-8")
        assert re.findall(r'data-widget="(\w+)"', text) == [kind for _, kind in widgets.PLACES.get(source.name, ())]
    assert {kind for places in widgets.PLACES.values() for _, kind in places} == set(widgets.TITLES)
