"""Every notebook is run as shipped, with the answers and with wrong ones; its numbers are asserted, its words known."""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import re
from pathlib import Path

import pytest

from tools.notebooks import build, widgets
from vbw_np.teach import CLAIMS, NOT_ATTEMPTED, RESULTS, RIGHT, WRONG, exercises
from vbw_np.teach.runner import Cell, answer_with, run_cells
from vbw_np.viz import Picture, have_matplotlib

SOURCES = {source.name: source for source in build.sources()}
every_notebook = pytest.mark.parametrize("name", SOURCES)


def cells_of(source: build.Source, answers: str | None = None) -> list[Cell]:
    """The cells of a notebook as it ships, or with each exercise's `solution` or `wrong` answer filled in."""
    cells = [
        Cell(c["cell_type"], "".join(c["source"]), c["metadata"]) for c in build.notebook(source)["cells"]
    ]
    for cell in cells:
        if answers and cell.exercise:
            cell.source = answer_with(cell.source, getattr(exercises()[cell.exercise], answers))
    return cells


@pytest.fixture(autouse=True)
def afresh(monkeypatch):
    """No verdicts or claims of another notebook; short training; no grader."""
    RESULTS.clear()
    CLAIMS.clear()
    monkeypatch.setenv("VBW_FAST", "1")
    monkeypatch.delenv("VBW_STRICT", raising=False)
    monkeypatch.delenv("NBGRADER_EXECUTION", raising=False)


def drawn_only(picture: Picture, dpi: int = 200, *, dark: bool = False) -> bytes:
    """In the place of `Picture.png`: all that draws is run, and no pixels are made."""
    picture.figure()
    return b""


def run(name: str, monkeypatch: pytest.MonkeyPatch, answers: str | None = None) -> list[Cell]:
    if answers:
        monkeypatch.setenv("VBW_FAST", "2")  # trainings of a few steps: here it is the exercises that count
        monkeypatch.setattr(Picture, "png", drawn_only)
    cells = cells_of(SOURCES[name], answers)
    run_cells(cells, name)
    broken = [cell for cell in cells if cell.error]
    if broken:
        pytest.fail(f"{name}: a cell failed\n{broken[0].source}\n\n{broken[0].error[-1500:]}", pytrace=False)
    return cells


def exercises_in(name: str) -> list[str]:
    return [c.options["exercise"] for c in SOURCES[name].cells if "exercise" in c.options]


# ---- the files


@every_notebook
def test_the_notebook_is_what_its_source_says(name):
    path = build.NOTEBOOKS / f"{name}.ipynb"
    assert path.read_text("utf-8") == build.rendered(SOURCES[name]), "run: python tools/notebooks/build.py"


def test_there_is_no_notebook_without_a_source():
    assert {path.stem for path in build.NOTEBOOKS.glob("*.ipynb")} == set(SOURCES)


@every_notebook
def test_the_file_is_a_clean_notebook(name):
    document = json.loads((build.NOTEBOOKS / f"{name}.ipynb").read_text("utf-8"))
    assert (document["nbformat"], document["nbformat_minor"]) == (4, 5)
    assert document["metadata"]["kernelspec"]["name"] == "python3"
    ids = [cell["id"] for cell in document["cells"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", i) for i in ids)
    for cell in document["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            assert not re.search(r"^\s*[%!]", "".join(cell["source"]), re.M), "no magics: the cells are plain Python"
    headings = [m for c in document["cells"] if c["cell_type"] == "markdown"
                for m in re.findall(r"^(#+) ", "".join(c["source"]), re.M)]
    assert headings.count("#") == 1, "one title"


@every_notebook
def test_the_beats_are_there(name):
    text = "\n".join(c.source for c in SOURCES[name].cells if c.kind == "markdown")
    for beat in ("Predict", "Exercise", "Where the emulator is not the hardware", "What you can say now"):
        assert re.search(rf"^## .*{beat}", text, re.M | re.I), f"{name} has no section {beat!r}"
    code = "\n".join(c.source for c in SOURCES[name].cells if c.kind == "code")
    assert "claim(" in code and "viz." in code and "predict(" in code


@every_notebook
def test_a_reader_is_not_met_by_a_wall(name):
    """The first text has at most 150 words, and no cell that is read more than 20 lines of code."""
    cells = SOURCES[name].cells
    first = next(cell for cell in cells if cell.kind == "markdown")
    assert len(first.source.split()) <= 150
    for cell in cells:
        lines = [line for line in cell.source.splitlines() if line.strip()]
        assert cell.kind != "code" or len(lines) <= 20, cell.source


def test_no_later_notebook_needs_an_optional_one():
    optional = {source.number for source in SOURCES.values() if source.front.get("optional")}
    assert optional and not any(optional & set(s.front.get("needs", "").split(", ")) for s in SOURCES.values())


@every_notebook
def test_the_page_is_of_this_notebook_and_stands_alone(name):
    text = (build.ROOT / "docs" / "notebooks" / f"{name}.html").read_text("utf-8")
    digest = hashlib.sha256(build.rendered(SOURCES[name]).encode()).hexdigest()
    assert f'<meta name="made-from" content="{digest}">' in text, "out of date, run: make docs"
    found = re.findall(r"<script.*?</script>", text, re.S)
    assert set(found) <= set(widgets.scripts(widgets.kinds_of(name))) and text.count("<script") == len(found)
    assert not re.search(r'(src|href)="https?://[^"]*"[^>]*(stylesheet|>\s*</script)', text)
    assert not re.search(r'<img[^>]*src="(?!data:)', text) and not re.search(r"<img(?![^>]*alt=)", text)
    assert text.count("<h1") == 1 and 'lang="en"' in text and 'name="viewport"' in text


def test_the_index_links_every_page():
    index = (build.ROOT / "docs" / "notebooks" / "index.html").read_text("utf-8")
    assert all(f'href="{name}.html"' in index for name in SOURCES)


def test_the_readme_lists_the_notebooks_in_order():
    readme = (build.ROOT / "README.md").read_text("utf-8")
    rows = [
        f"| [{s.number} {s.front['title']}](notebooks/{s.name}.ipynb) | {s.front['question']} | {s.front['minutes']} |"
        for s in SOURCES.values()
    ]
    assert "\n".join(rows) in readme
    total = sum(int(s.front["minutes"]) for s in SOURCES.values())
    assert f"About {total} minutes in all" in readme


# ---- running


@every_notebook
def test_as_shipped_a_skipped_exercise_blocks_nothing(name, monkeypatch):
    cells = run(name, monkeypatch)
    assert exercises_in(name), "a notebook without an exercise"
    assert {k: RESULTS[k].state for k in exercises_in(name)} == dict.fromkeys(exercises_in(name), NOT_ATTEMPTED)
    check_prose(name)
    check_pictures(name, cells)
    monkeypatch.setattr(Picture, "png", lambda *_, **__: b"")
    for cell in cells:
        if isinstance(cell.value, Picture) and have_matplotlib():
            assert ("<source" in cell.value.page_html()) is cell.value.gray


@every_notebook
def test_with_the_solutions_every_check_passes(name, monkeypatch):
    run(name, monkeypatch, "solution")
    assert {k: RESULTS[k].state for k in exercises_in(name)} == dict.fromkeys(exercises_in(name), RIGHT)


def test_the_readers_own_parts_train_the_model(monkeypatch, tmp_path):
    """The answers of all notebooks, saved as a reader would save them, are what notebook 10 trains with."""
    answers = {name: exercise.solution for name, exercise in exercises().items()}
    for source in SOURCES.values():
        (tmp_path / f"{source.name}.ipynb").write_text(build.rendered(source, answers), "utf-8")
    monkeypatch.setenv("VBW_NOTEBOOKS", str(tmp_path))
    cells = run("10_training", monkeypatch, "solution")
    (curves,) = [c.value for c in cells if c.kind == "code" and "by_hand," in c.source and c.html]
    assert "yours (8 of 8 parts)" in str(curves.rows) + curves.alt


@every_notebook
def test_a_wrong_answer_is_caught_with_the_advertised_message(name, monkeypatch):
    run(name, monkeypatch, "wrong")
    for key in exercises_in(name):
        assert RESULTS[key].state == WRONG
        assert exercises()[key].symptom in RESULTS[key].message


def test_every_exercise_stands_in_a_notebook_once_and_they_stand_in_order():
    placed = [key for name in SOURCES for key in exercises_in(name)]
    assert placed == sorted(exercises())
    checked = [c.options["check"] for s in SOURCES.values() for c in s.cells if "check" in c.options]
    assert sorted(checked) == sorted(placed)


# ---- numbers in the prose

NUMBER = re.compile(r"(?<![\w.,/-])-?(\d{1,3}(?:,\d{3})+|\d+)(\.\d+)?(?![\w/]|\.\d|,\d)")


def prose_of(markdown: str) -> str:
    """Text without code, links' targets, and numbering."""
    text = re.sub(r"```.*?```", " ", markdown, flags=re.S)
    text = re.sub(r"`[^`]*`", " ", text)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    text = re.sub(r"arXiv[ :]\d+\.\d+", " ", text)
    return re.sub(r"^\s*\d+\.\s", "", text, flags=re.M)


def numbers_in(text: str) -> list[str]:
    return [match.group(0) for match in NUMBER.finditer(text)]


def check_prose(name: str) -> None:
    """Every number that the text prints was asserted by a claim in this run."""
    asserted = {round(value, 9) for claim in CLAIMS for value in claim.numbers}
    front = SOURCES[name].front
    for text in [front["title"], front["question"]] + [c.source for c in SOURCES[name].cells if c.kind == "markdown"]:
        for number in numbers_in(prose_of(text)):
            value = round(float(number.replace(",", "")), 9)
            assert value in asserted, f"{name}: the text says {number}, and no claim asserts it:\n{text[:400]}"


def test_the_number_finder_finds_numbers():
    assert numbers_in(prose_of("It takes 4.5 bits, 2,048 bytes and -3 `or 7`; E2M1, NVFP4, [x](y 9).")) == [
        "4.5", "2,048", "-3",
    ]


@every_notebook
def test_a_claim_measures_something(name):
    for cell in SOURCES[name].cells:
        if cell.kind != "code":
            continue
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "claim":
                assert not isinstance(node.args[1], ast.Constant), f"{name}: {ast.unparse(node)} asserts a constant"


@every_notebook
def test_nothing_is_told_before_the_guess_is_compared(name):
    """From `predict` on, what a cell shows is covered in Jupyter; so nothing comes before."""
    for cell in SOURCES[name].cells:
        if cell.kind != "code" or "predict(" not in cell.source or "import " in cell.source:
            continue
        calls = [n for n in ast.walk(ast.parse(cell.source)) if isinstance(n, ast.Call)]
        named = {ast.unparse(n): n.lineno for n in calls if getattr(n.func, "id", "") in ("print", "claim")}
        at = next(n.lineno for n in calls if getattr(n.func, "id", "") == "predict")
        early = {text for text, line in named.items() if line < at and "silent=True" not in text}
        assert not early, early


# ---- pictures


def check_pictures(name: str, cells: list[Cell]) -> None:
    pictures = [cell for cell in cells if isinstance(cell.value, Picture)]
    assert pictures, f"{name} shows no picture"
    for cell in pictures:
        assert len(cell.value.alt) > 40 and cell.value.rows
        assert "<details>" in cell.html
        if have_matplotlib():
            assert 'src="data:image/png;base64,' in cell.html and "alt=" in cell.html


# ---- exercises


def test_the_names_in_a_verdict_are_those_in_the_cell():
    """A counter-example names its arguments after the library's answer: the learner's function has the same ones."""
    stubs = {c.options["exercise"]: c.source for s in SOURCES.values() for c in s.cells if "exercise" in c.options}
    for name, exercise in exercises().items():
        expected = list(inspect.signature(exercise.expected).parameters)
        tree = ast.parse(stubs[name])
        own = [node.args.args for node in tree.body if isinstance(node, ast.FunctionDef)]
        assert [arg.arg for arg in own[0]][: len(expected)] == expected if own else not expected, name


# ---- words

GLOSSARY = Path(__file__).parents[2] / "docs" / "glossary.md"


def glossary() -> dict[str, tuple[str, list[str]]]:
    """Term -> (first notebook, forms of the word)."""
    found = {}
    for match in re.finditer(r"^### (.+?) \((\d\d)\)\n", GLOSSARY.read_text("utf-8"), re.M):
        forms = [form.strip() for form in match.group(1).split(",")]
        found[forms[0]] = (match.group(2), forms)
    return found


def uses(term: str, text: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(term)}(?:s|es)?(?![\w-])", text, re.I) is not None


@pytest.mark.parametrize("term", glossary())
def test_a_word_is_explained_before_it_is_used(term):
    first, forms = glossary()[term]
    numbers = {source.number: source for source in SOURCES.values()}
    assert first in numbers, f"{term}: there is no notebook {first}"
    for number, source in numbers.items():
        texts = [source.front["title"] + ". " + source.front["question"]] if number < first else []
        texts += [c.source for c in source.cells if c.kind == "markdown"]
        if number < first:
            for text in texts:
                plain = prose_of(text)
                assert not any(uses(form, plain) for form in forms), (
                    f"{term!r} is used in {number}, before {first}:\n{text}"
                )
        elif number == first:
            for text in texts:
                bold = re.search("|".join(rf"\*\*{re.escape(form)}(?:s|es)?\*\*" for form in forms), text, re.I)
                before = text[: bold.start()] if bold else text
                before = prose_of(re.sub(r"^#+ .*$", "", before, flags=re.M) if bold else before)
                assert not any(uses(form, before) for form in forms), (
                    f"{term!r} is used before it is explained:\n{text}"
                )
                if bold:
                    return
            raise AssertionError(f"notebook {first} does not explain {term!r} in bold")


def test_every_bold_word_is_in_the_glossary():
    known = {form.lower() for _, forms in glossary().values() for form in forms}
    for source in SOURCES.values():
        for cell in source.cells:
            if cell.kind != "markdown":
                continue
            for bold in re.findall(r"\*\*(.+?)\*\*", re.sub(r"`[^`]*`", "", cell.source)):
                word = bold.lower()
                assert {word, word.removesuffix("s"), word.removesuffix("es")} & known, f"{source.name}: {bold!r}"


# ---- pages


def test_headings_have_names_and_bold_words_lead_to_the_glossary():
    pytest.importorskip("mistune")
    pytest.importorskip("pygments")
    from tools.notebooks import pages

    body, headings = pages.anchored("<h2>A <em>tie</em></h2><h3>byte (<a>00</a>)</h3><h2>A tie</h2>")
    assert [name for name, _ in headings] == ["a-tie", "byte", "a-tie-2"]
    assert '<h3 id="byte">' in body
    linked = pages.linked_terms("<strong>bytes</strong><strong>no such word</strong>")
    assert linked == '<a class="term" href="glossary.html#byte"><strong>bytes</strong></a><strong>no such word</strong>'


def test_every_link_inside_the_pages_arrives():
    pytest.importorskip("mistune")
    pytest.importorskip("pygments")
    from tools.notebooks import pages

    names = set(re.findall(r' id="([^"]*)"', pages.glossary_page()))
    for source in SOURCES.values():
        for cell in source.cells:
            if cell.kind == "markdown":
                links = re.findall(r'href="glossary\.html#([^"]*)"', pages.linked_terms(pages.markdown(cell.source)))
                assert set(links) <= names


def test_looking_without_a_browser_says_what_to_install(monkeypatch, capsys):
    from tools.notebooks import look

    monkeypatch.setattr(look.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit) as stopped:
        look.browser()
    assert stopped.value.code == 2 and "apt-get install chromium" in capsys.readouterr().err
