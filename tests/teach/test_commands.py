"""The verb `vbw learn`."""

from __future__ import annotations

import json

from vbw_np.cli import main
from vbw_np.teach import exercises


def test_learn_list(capsys):
    assert main(["learn", "list"]) == 0
    out = capsys.readouterr().out
    assert "notebook 02" in out and "02.1  decode a code without a table (define `decode`)" in out
    assert main(["learn", "list", "--json"]) == 0
    assert {e["name"] for e in json.loads(capsys.readouterr().out)} == set(exercises())


def test_learn_check(tmp_path, capsys):
    answer = tmp_path / "answer.py"
    answer.write_text("same_either_way = 16\n")
    assert main(["learn", "check", "03.2", str(answer)]) == 0
    answer.write_text("same_either_way = 15\n")
    assert main(["learn", "check", "03.2", str(answer)]) == 1
    assert "WRONG" in capsys.readouterr().out
    assert main(["learn", "check", "03.1", str(answer)]) == 2
    assert "does not define 'pack'" in capsys.readouterr().err
    assert main(["learn", "check", "03.1", str(tmp_path / "none.py")]) == 2


def test_learn_hint(capsys):
    assert main(["learn", "hint", "02.1", "--number", "2"]) == 0
    assert "hint 2 of 2" in capsys.readouterr().out
    assert main(["learn", "hint", "02.1", "--number", "0"]) == 2


def test_learn_solution_exists_and_the_last_hint_names_it(capsys):
    assert main(["learn", "solution", "03.2"]) == 0
    assert "same_either_way" in capsys.readouterr().out
    assert main(["learn", "hint", "03.2", "--number", "9"]) == 0
    assert capsys.readouterr().out == "03.2: that was the last hint. vbw learn solution 03.2 shows an answer.\n"


def test_learn_check_runs_the_file_elsewhere(tmp_path, capsys):
    answer = tmp_path / "answer.py"
    right = "same_either_way = 16"
    for text, code in (
        (f"import os; os._exit(0)\n{right}", 1),
        (f"while True: pass\n{right}", 1),
        (f"{right}\nimport sys; sys.exit(0)", 0),
    ):
        answer.write_text(f"print('here', flush=True)\n{text}\n")
        assert main(["learn", "check", "03.2", str(answer), "--seconds", "2"]) == code
        out, err = capsys.readouterr()
        assert "here" not in out and (code or "here" in err)
    answer.write_text("def decode(code):\n    return missing\n")
    assert main(["learn", "check", "02.1", str(answer)]) == 1
    assert "line 2: return missing" in capsys.readouterr().out
    answer.write_text("def decode(code):\n    raise NotImplementedError\n")
    assert main(["learn", "check", "02.1", str(answer)]) == 1
    assert "Stuck? vbw learn hint 02.1" in capsys.readouterr().out


def test_help_says_what_is_isolated(capsys):
    for verb in (["grade"], ["learn", "check"]):
        assert main([*verb, "--help"]) == 0
        text = " ".join(capsys.readouterr().out.split())
        assert "never in the one that judges" in text and "What is NOT isolated" in text
