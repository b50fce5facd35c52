"""``import vbw_np as vbw``: every name is there, found by tab completion, and loaded only when it is used."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import vbw_np as vbw

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", vbw.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(vbw, name) is not None and name in dir(vbw)


def test_names_come_from_their_homes() -> None:
    from vbw_np import formats
    from vbw_np.device import place

    assert vbw.quantize is formats.quantize and vbw.place is place
    with pytest.raises(AttributeError, match="has no attribute 'quantise'; it has BlockFormat, "):
        _ = vbw.quantise


def test_importing_loads_nothing_heavy() -> None:
    code = (
        "import sys; import vbw_np as vbw; dir(vbw); heavy = ('numpy', 'numba', 'autograd');"
        "print([m for m in heavy if m in sys.modules]); from vbw_np import quantize; print('numba' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "[]\nFalse\n"


def test_the_example_of_the_readme_prints_what_it_says() -> None:
    section = (ROOT / "README.md").read_text("utf-8").partition("## In Python")[2]
    code, output = re.search(r"```python\n(.*?)```.*?```text\n(.*?)```", section, re.S).groups()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stdout == output, done.stderr
    assert len(code.splitlines()) <= 10
