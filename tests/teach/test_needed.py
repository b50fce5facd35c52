"""Which cells an answer needs."""

from __future__ import annotations

from vbw_np.teach.needed import defines, excerpt, names, needed, without_idle_imports
from vbw_np.teach.runner import Cell


def cells(*sources: str) -> list[Cell]:
    return [Cell("code", source) for source in sources]


def test_names_of_a_cell():
    binds, uses = names("import a.b, c as d\nx = y\ndef f(p):\n    q = p + z\n    return len(q)\nfor i in k: pass")
    assert binds == {"a", "d", "x", "f", "i"} and uses == {"y", "z", "k"}
    assert names("%timeit x\ny = 1") == ({"y"}, frozenset())
    assert names("return (") == (frozenset(), frozenset())
    assert "g" in names("def f():\n    global g\n    g = 1")[0]


def test_a_chain_is_followed_and_the_rest_is_left():
    notebook = cells("a = 1", "while True: pass", "b = a", "unused = b", "def f():\n    return b + late", "late = 2")
    assert needed(notebook, [4]) == [0, 2, 4, 5]


def test_a_parameter_is_not_the_global_of_its_name():
    assert needed(cells("x = 1", "def f(x):\n    y = x\n    return y", "y = 2"), [1]) == [1]


def test_all_cells_that_bind_a_name_are_needed():
    assert needed(cells("t = [1]", "t += [2]", "t = t + [3]", "def f():\n    return t"), [3]) == [0, 1, 2, 3]


def test_an_import_of_everything_is_always_needed():
    assert needed(cells("from math import *", "def f():\n    return floor(2.5)"), [1]) == [0, 1]


def test_a_check_is_never_needed():
    check = Cell("code", "f = 3", {"vbw": {"check": "02.1"}})
    assert needed([check, *cells("def g():\n    return f")], [1]) == [1]


def test_imports_that_nobody_uses_are_left_out():
    source = "import numpy as np\nimport heavy, heavier\nfrom x import (\n    y,\n)\nvalue = np.zeros(3)"
    assert without_idle_imports(source, {"np"}) == "import numpy as np\npass\npass\n\n\nvalue = np.zeros(3)"
    assert "import heavy" in without_idle_imports("import heavy; a = 1", set())
    notebook = cells("import numpy as np\nimport heavy", "def f():\n    return np.pi")
    assert excerpt(notebook, [1]) == [(0, "import numpy as np\npass"), (1, notebook[1].source)]


def test_a_broken_cell_is_known_by_its_first_words():
    assert defines("def decode(code):\n    return (", "decode") and defines("decode = (", "decode")
    assert not defines("decode(3)", "decode") and not defines("def decoder(:", "decode")
