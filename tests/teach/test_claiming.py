"""Sentences that are asserted, guesses that are compared."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import numpy as np
import pytest

from vbw_np.teach import CLAIMS, claim, predict


def test_a_silent_claim_is_asserted_and_says_nothing(capsys):
    CLAIMS.clear()
    claim("six", 6, 6, silent=True)
    assert CLAIMS[0].numbers == (6.0,) and not capsys.readouterr().out
    with pytest.raises(AssertionError, match="does not hold: seven"):
        claim("seven", 6, 7, silent=True)


def test_a_claim_holds_or_stops(capsys):
    CLAIMS.clear()
    claim("four", 2 + 2, 4)
    claim("about pi", 3.1, 3, tol=0.2)
    claim("bounds", 5, at_least=4, at_most=6)
    claim("an array", np.arange(3), np.arange(3))
    assert capsys.readouterr().out.count("[holds]") == 4
    assert [c.numbers for c in CLAIMS] == [(4.0,), (3.0,), (4.0, 6.0), ()]
    for wrong in ({"expected": 5}, {"at_least": 5}, {"at_most": 3}):
        with pytest.raises(AssertionError, match="claim does not hold: four"):
            claim("four", 4, **wrong)
    with pytest.raises(TypeError, match="say what is expected"):
        claim("four", 4)


def test_predictions(capsys):
    predict(None, 4)
    predict(4, 4)
    predict(3, 4, "legs")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("no guess yet") and "so it is" in lines[1]
    assert lines[2] == "legs: you said 3; it is 4. Where does it come from?"


@pytest.mark.parametrize(
    ("guess", "actual", "near"),
    [(1.9, 2.0, False), (21, 20, True), (19, 20, True), (23, 20, False), (9.6, 10.3, True), (3, 4, False),
     (-0.95, -1.02, True), ("21", 20, False), (True, 20, False), ([21], [20], False)],
)  # fmt: skip
def test_a_near_guess_is_near(guess, actual, near, capsys):
    predict(guess, actual)
    assert ("that is near" in capsys.readouterr().out) is near


IN_JUPYTER = """
import sys
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

shell, out, hook = InteractiveShell.instance(), [], sys.displayhook
shell.display_pub.publish = lambda data, metadata=None, **rest: out.append(data)
shell.run_cell("from vbw_np.teach import claim, predict, uncover")


def run(source):
    out.clear()
    with capture_output(display=False) as seen:
        shell.run_cell(source)
    return seen.stdout


said = run("print('before')\\npredict(GUESS, 27)\\nclaim('all', 27, 27)\\n27 + 1".replace("GUESS", "None"))
assert said == "before\\n", said
(data,) = out
assert "27" not in data["text/plain"] and "uncover()" in data["text/plain"]
before, fold = data["text/html"].split("<details>")
assert "27" not in before and all(part in fold for part in ("It is 27.", "[holds] all", "<pre>28</pre>"))
assert "It is 27." in run("uncover()") and not out
assert "print" and run("print('next cell')") == "next cell\\n" and not out
guessed = run("predict(27, 27)\\nclaim('all', 27, 27)")
assert "and so it is" in guessed and "[holds] all" in guessed and not out
said = run("predict(None, 27)\\n1 / 0")
assert "It is 27." in said and "ZeroDivisionError" in said and not out
assert run("print('still')") == "still\\n" and sys.displayhook == hook
"""


def test_in_jupyter_the_answer_is_covered_until_it_is_asked_for():
    pytest.importorskip("IPython")
    source = textwrap.dedent(IN_JUPYTER)
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1500:]
