"""All notebooks in a headless Chromium, from a local Pyodide, offline: every claim holds, every answer is right.

Minutes: `make test-browser` runs them.
"""

from __future__ import annotations

import json
import os
import textwrap
from typing import Any

import pytest

pytest.importorskip("mistune", reason='the docs extra is not installed: pip install --editable ".[docs]"')

from tools.notebooks import build
from tools.site import run
from vbw_np.teach import RIGHT

NAMES = [source.name for source in build.sources()]

pytestmark = pytest.mark.slow


VERDICTS = """
import json
from vbw_np.teach import RESULTS
json.dumps({name: result.state for name, result in RESULTS.items()})
"""


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_with_the_answers_and_all_claims_hold(name: str, browser: Any, address: str) -> None:
    page = run.opened(browser, address, name)
    try:
        run.fill_in(page, name)
        ran = run.run_page(page, name)
        verdicts = json.loads(page.evaluate("source => notebook.evaluate(source)", VERDICTS)) if not ran.wrong else {}
    finally:
        page.close()
    print(run.line(ran))
    if os.environ.get("VBW_KEEP_TIMES"):
        run.keep([ran])
    assert not ran.wrong, run.line(ran)
    assert ran.status.startswith("All cells ran; ") and ran.status.endswith(" claims held."), ran.status
    (source,) = (s for s in build.sources() if s.name == name)
    asked = [cell.options["exercise"] for cell in source.cells if "exercise" in cell.options]
    assert asked and verdicts == dict.fromkeys(asked, RIGHT)
    assert not [text for text in ran.console if "favicon" not in text], ran.console


BITS = textwrap.dedent(
    """
    import hashlib, sys
    sys.path.insert(0, ROOT)
    from tools import digest
    from vbw_np import formats
    lines = [f"{name}: {bits}" for name, bits in (*digest.quantized(formats.quantize), *digest.profiles())]
    """
)


def test_the_bits_are_those_of_this_python(browser: Any, address: str) -> None:
    """Every format, rounding and producer's profile on six kinds of arrays: codes, scales and decoded values."""
    here: dict[str, Any] = {}
    exec(f"ROOT = {str(build.ROOT)!r}\n{BITS}", here)
    page = run.opened(browser, address, "03_packing")
    try:
        run.run_page(page, "03_packing")
        source = (build.ROOT / "tools" / "digest.py").read_text("utf-8")
        place = "import os\nos.makedirs('/tmp/tools', exist_ok=True)\n"
        place += f"open('/tmp/tools/digest.py', 'w').write({source!r})"
        page.evaluate("source => notebook.evaluate(source)", place)
        there = page.evaluate(
            "source => notebook.evaluate(source)", f"ROOT = '/tmp'\n{BITS}\n'\\n'.join(lines)"
        ).splitlines()
    finally:
        page.close()
    assert len(there) > 500 and there == here["lines"]


def test_a_reader_stops_goes_on_and_comes_back(browser: Any, address: str) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{address}03_packing-run.html")
    code = page.locator(".cell textarea")
    code.nth(1).fill("import time\nprint('begun')\ntime.sleep(60)")
    page.locator(".cell .run").nth(1).click()
    page.wait_for_function("document.querySelectorAll('.out')[1].textContent.includes('begun')", timeout=120_000)
    page.get_by_role("button", name="Stop").click()
    assert "variables are gone" in page.locator("[data-is=status]").inner_text()
    code.nth(1).fill("mine = 6 * 7\nmine")
    page.reload()
    assert code.nth(1).input_value() == "mine = 6 * 7\nmine"
    code.nth(1).press("Shift+Enter")  # the cell above runs first
    page.wait_for_function("notebook.loaded && notebook.idle", timeout=120_000)
    assert [page.locator(".out").nth(n).inner_text().strip() for n in (0, 1)] == ["", "42"]
    assert page.evaluate("document.activeElement === document.querySelectorAll('.cell textarea')[2]")
    page.locator(".again").nth(1).click()
    assert "42" not in code.nth(1).input_value() and page.locator(".again").nth(1).is_hidden()
    context.close()
