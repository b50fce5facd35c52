"""The frame of ``vbw``: light help, one line for an error, exit codes, pipes, the doctor, the progress line."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from vbw_np import __version__, cli, doctor, files, machine
from vbw_np.bench import environment
from vbw_np.errors import UserError
from vbw_np.progress import Progress, clock_text, use_color

ROOT = Path(__file__).parents[1]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vbw_np", *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment},
        timeout=120,
        check=False,
    )


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a verb ``try`` with the given body into the frame."""

    def make(body: str, verbs: str = 'VERBS = {"try": "a verb for tests"}') -> None:
        source = f"""
import sys
{verbs}
def run(arguments):
{textwrap.indent(textwrap.dedent(body), "    ")}
def add_commands(subparsers):
    parser = subparsers.add_parser("try", help="a verb for tests")
    parser.add_argument("--size", type=int, default=1)
    parser.set_defaults(run=run)
"""
        (tmp_path / "room_for_tests.py").write_text(source)
        sys.modules.pop("room_for_tests", None)

    monkeypatch.syspath_prepend(str(tmp_path))
    original = cli.room_file
    monkeypatch.setattr(
        cli, "room_file", lambda name: tmp_path / "room_for_tests.py" if name == "room_for_tests" else original(name)
    )
    monkeypatch.setattr(cli, "ROOMS", ("room_for_tests", *cli.ROOMS))
    monkeypatch.delenv("VBW_DEBUG", raising=False)
    yield make
    sys.modules.pop("room_for_tests", None)


def test_version() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"vbw-np {__version__}\n", "")


def test_help_names_every_verb_and_imports_nothing_heavy() -> None:
    heavy = ("numpy", "numba", "llvmlite", "autograd")
    code = f"import sys; from vbw_np.cli import main; main(['--help']); print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == "[]", "a room's commands need the literal VERBS, see vbw_np/cli.py"
    for verb in cli.verbs():
        assert re.search(rf"^    {verb}( |$)", done.stdout, re.MULTILINE), verb  # a long one has its help below it


def test_importing_the_package_is_light() -> None:
    code = "import sys, vbw_np; print([m for m in ('numpy', 'numba') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_every_room_that_offers_verbs_is_asked_for_them() -> None:
    there = {f"vbw_np.{file.parent.name}.commands" for file in (ROOT / "vbw_np").glob("*/commands.py")}
    assert there <= set(cli.ROOMS) and all(map(cli.room_file, cli.ROOMS)), "ROOMS of vbw_np/cli.py"


@pytest.mark.parametrize("verb", sorted(cli.verbs()))
def test_declared_verbs_are_the_rooms_verbs(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([verb, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: vbw {verb} ")


def test_no_verb_prints_the_help_on_stderr() -> None:
    done = run()
    assert (done.returncode, done.stdout) == (2, "") and "verbs:" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["docter"], "unknown verb 'docter'. Did you mean 'doctor'?"),
        (["xyz"], "unknown verb 'xyz'. The verbs are: "),
        (["--verbose"], "unrecognized arguments: --verbose"),
        (["doctor", "--jsn"], "unrecognized arguments: --jsn (see: vbw doctor --help)"),
        (["doctor", "--js"], "unrecognized arguments: --js"),  # no guessing
        (["doctor", "more"], "unrecognized arguments: more"),
    ],
)
def test_usage_errors_are_one_line(arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("vbw: error: ") and message in done.stderr
    assert "--help)" in done.stderr


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("raise ValueError('sizes 3 and 4 differ')", "sizes 3 and 4 differ"),
        ("raise ValueError('first\\n  second')", "first; second"),
        ("raise ValueError", "ValueError"),
        ("open('/nowhere/x.json', 'w')", "/nowhere/x.json: No such file or directory"),
        ("raise ImportError('autograd is another')", "autograd is another"),
        ("from vbw_np.data import load_text; load_text('nowhere-at-all')", "data: nowhere-at-all does not exist"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(room, capsys, body: str, line: str) -> None:
    room(body)
    assert cli.main(["try"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"vbw: error: {line}") and err.count("\n") == 1


def test_an_argument_of_the_wrong_type(room, capsys) -> None:
    room("return 0")
    assert cli.main(["try", "--size", "big"]) == 2
    assert "argument --size: invalid int value: 'big' (see: vbw try --help)" in capsys.readouterr().err


def test_debugging_shows_the_traceback(room, monkeypatch) -> None:
    room("raise ValueError('here')")
    monkeypatch.setenv("VBW_DEBUG", "1")
    with pytest.raises(ValueError, match="here"):
        cli.main(["try"])


@pytest.mark.parametrize(
    "error", ["TypeError('a defect')", "RecursionError('too deep')", "__import__('pickle').UnpicklingError('cut')",
              "AssertionError()", "KeyError('x')", "StopIteration()"]
)  # fmt: skip
def test_a_defect_is_one_line_too_but_not_dressed_up_as_bad_input(room, capsys, monkeypatch, error: str) -> None:
    room(f"raise {error}")
    assert cli.main(["try"]) == 3
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("vbw: error: unforeseen ")
    assert error.rpartition("(")[0].rpartition(".")[2] in err and "VBW_DEBUG=1 shows where" in err
    monkeypatch.setenv("VBW_DEBUG", "1")
    with pytest.raises(Exception, match=r".*"):
        cli.main(["try"])


@pytest.mark.parametrize(("body", "code"), [("pass", 0), ("return 1", 1), ("raise KeyboardInterrupt", 130)])
def test_exit_codes(room, body: str, code: int) -> None:
    room(body)
    assert cli.main(["try"]) == code


def test_a_room_that_declares_no_verbs_is_asked(room, capsys) -> None:
    room("print('ran')", verbs="")
    assert cli.verbs()["try"] == ("room_for_tests", "a verb for tests")
    assert cli.main(["try"]) == 0 and capsys.readouterr().out == "ran\n"


def test_a_room_that_is_not_built_is_absent(monkeypatch) -> None:
    monkeypatch.setattr(cli, "ROOMS", ("vbw_np.no_such_room.commands",))
    assert cli.verbs() == {}


@pytest.mark.skipif(sys.platform == "win32", reason="pipes end differently there")
def test_a_reader_that_leaves_is_no_error() -> None:
    code = (
        "import sys, vbw_np.cli as c\n"
        "class A: verb = 'x'; run = staticmethod(lambda a: [print('y' * 9999) for _ in range(999)])\n"
        "c.build_parser = lambda argv: type('P', (), {'parse_known_args': lambda self, argv: (A, [])})()\n"
        "sys.exit(c.main(['x']))"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, text=True
    )
    assert writer.stdout is not None and writer.stderr is not None
    writer.stdout.read(1)
    writer.stdout.close()
    assert (writer.wait(timeout=60), writer.stderr.read()) == (141, "")
    writer.stderr.close()


def shell(line: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A line of a POSIX shell, in which $VBW is the command."""
    return subprocess.run(
        ["sh", "-c", line.replace("$VBW", f"{sys.executable} -m vbw_np")],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, **variables}, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("verb", ["--help", "doctor --json", "bits"])
def test_a_full_disk_behind_stdout_is_one_line(verb: str, unbuffered: str) -> None:
    done = shell(f"$VBW {verb} > /dev/full; echo $?", PYTHONUNBUFFERED=unbuffered)
    assert done.stdout == "2\n" and done.stderr.count("\n") == 1
    assert done.stderr.startswith("vbw: error: ") and done.stderr.endswith("No space left on device\n")


@pytest.mark.skipif(sys.platform == "win32", reason="another shell")
def test_closed_streams() -> None:
    done = shell("$VBW doctor >&-; echo $?")
    assert done.stdout == "2\n" and done.stderr.startswith("vbw: error: stdout is closed, so the results would be lost")
    done = shell("$VBW --version 2>&- <&-; echo $?")
    assert done.stdout == f"vbw-np {__version__}\n0\n" and done.stderr == ""
    done = shell("$VBW no-such-verb 2>&-; echo $?")
    assert done.stdout == "2\n", "with stderr closed, errors do not get into the results"
    assert shell("$VBW --help | true; echo $?").stderr == ""


def test_a_console_without_the_characters_still_prints(room) -> None:
    code = "import sys; from vbw_np import cli; cli._tolerate_any_character(); print('总时间 ok')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"},
        check=True,
    )
    assert done.stdout.split() == [b"???", b"ok"]


# the doctor


def test_doctor_json_is_pure_json_and_says_what_runs() -> None:
    found = json.loads(run("doctor", "--json").stdout)
    import numpy as np

    assert found["vbw-np"]["version"] == __version__ and found["numpy"]["version"] == np.__version__
    assert found["numpy"]["blas"]["library"]
    assert {"python", "numba", "cpu", "kernels", "autograd", "caches", "memory", "findings"} <= set(found)
    assert Path(found["autograd"]["file"]).parent == ROOT / "autograd"


def test_doctor_text_names_the_blas_kernel() -> None:
    done = run("doctor")
    assert done.returncode == 0 and done.stderr == ""
    kernel = machine.blas_info()["kernel"]
    assert kernel is None or f"kernel {kernel}" in done.stdout


def test_the_blas_kernel_is_the_one_that_runs_not_the_one_built() -> None:
    """OPENBLAS_CORETYPE forces a kernel at load time; the answer must follow it."""
    if machine.blas_info()["library"] != "OpenBLAS" or "x86" not in machine.platform.machine():
        pytest.skip("no OpenBLAS for x86 here")
    blas = json.loads(run("doctor", "--json", OPENBLAS_CORETYPE="Sandybridge").stdout)["numpy"]["blas"]
    assert blas["kernel"] == "Sandybridge" and blas["variables"]["OPENBLAS_CORETYPE"] == "Sandybridge"


def test_doctor_notes_what_changes_the_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    done = run("doctor", OPENBLAS_L2_SIZE="1048576", NUMBA_DISABLE_JIT="1")
    assert "note: OPENBLAS_L2_SIZE replaces OpenBLAS's own choice" in done.stdout
    assert "note: NUMBA_DISABLE_JIT is set" in done.stdout


def test_doctor_reports_a_broken_part_and_examines_the_rest(monkeypatch, capsys) -> None:
    def broken() -> dict:
        raise ImportError("libnumba is cut")

    monkeypatch.setitem(doctor._PARTS, "numba", broken)
    assert cli.main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "fault: numba: ImportError: libnumba is cut" in out and "numpy " in out


def test_doctor_clears_the_caches(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("VBW_CACHE", str(tmp_path))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "numba"))
    for name in ("numba/k.nbi", "numba/k.1.nbc", "tokens/keep.txt", "tokens/mine.json", "tokens/mine.npy"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "a.txt").write_text("to be or not to be")
    assert cli.main(["data", "--data", str(tmp_path / "a.txt")]) == 0
    (tmp_path / "a.txt").unlink()
    assert cli.main(["doctor", "--clear-cache"]) == 0
    assert "removed 4 cache files" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["keep.txt", "mine.json", "mine.npy"]


def test_memory_is_in_bytes() -> None:
    memory = machine.memory_bytes()
    assert all(1 << 26 < value < 1 << 50 for value in memory.values())
    peak = machine.peak_memory_bytes()
    assert peak is None or 1 << 24 < peak < 1 << 44


def test_blas_takes_orders_about_threads_if_it_is_openblas(monkeypatch: pytest.MonkeyPatch) -> None:
    before = machine.blas_info()["threads"]
    if before is not None:
        try:
            assert machine.set_blas_threads(1)
            assert machine.blas_info()["threads"] == 1
        finally:
            assert machine.set_blas_threads(before)
        assert machine.blas_info()["threads"] == before
    monkeypatch.setattr(machine, "blas_info", lambda: {"library": "other", "file": str(Path(__file__).parent)})
    assert not machine.set_blas_threads(1)
    with pytest.raises(UserError, match="takes no orders"):
        environment.prepare_process(1)


# the progress line


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_progress_says_speed_and_time_left(monkeypatch) -> None:
    monkeypatch.delenv("TERM", raising=False)
    clock, stream = Clock(), Terminal()
    with Progress(20, "training", items_per_step=1024, stream=stream, clock=clock) as progress:
        clock.now = 10.0
        progress.step("loss 6.1", steps=5)
        assert progress.line() == "training 5/20  512 tokens/s  0:30 left"
        assert stream.getvalue().endswith("training 5/20  512 tokens/s  0:30 left  loss 6.1")
    assert stream.getvalue().endswith("\r")  # cleared
    assert "\n" not in stream.getvalue()


def test_progress_is_silent_where_nobody_watches() -> None:
    stream = io.StringIO()
    with Progress(2, "training", stream=stream) as progress:
        progress.step()
        progress.step()
    assert stream.getvalue() == ""


def test_progress_asked_for_in_a_log_writes_whole_lines_seconds_apart() -> None:
    clock, stream = Clock(), io.StringIO()
    with Progress(100, "training", stream=stream, clock=clock, enabled=True) as progress:
        for _ in range(100):
            clock.now += 0.5
            progress.step()
    lines = stream.getvalue().splitlines()
    assert 5 <= len(lines) <= 8 and "\r" not in stream.getvalue() and lines[-1].startswith("training 100/100")


def test_progress_survives_a_closed_stream() -> None:
    stream = Terminal()
    progress = Progress(2, "training", stream=stream, enabled=True)
    stream.close()
    progress.step()
    assert not progress.enabled


def test_color_only_where_it_is_welcome(monkeypatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert use_color(Terminal()) and not use_color(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not use_color(Terminal())


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (61.4, "1:01"), (3723, "1:02:03")])
def test_clock_text(seconds: float, text: str) -> None:
    assert clock_text(seconds) == text


def test_user_error_is_a_value_error() -> None:
    assert issubclass(UserError, ValueError)


# vbw data, and output files


def test_data_says_what_a_text_holds(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("VBW_CACHE", str(tmp_path / "cache"))
    (tmp_path / "a.txt").write_bytes(b"to be or not to be")
    assert cli.main(["data", "--data", str(tmp_path / "a.txt"), "--samples", "1", "--seq-len", "11", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["bytes"], facts["tokens"], facts["vocab_size"], facts["unk_share"]) == (18, 11, 6, 0.0)
    assert facts["samples"] == ["to be or not to be"] and facts["commonest"][:2] == [" ", "to"]
    assert cli.main(["data", "--data", str(tmp_path / "a.txt")]) == 0
    assert "a.txt: 18 bytes in 1 files" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (None, [], "does not exist"),
        (b"", [], "is empty"),
        (b"\x7fELF\0\0", [], "not a text file"),
        (b"a few words", ["--samples", "1"], "too short for a batch"),
        (b"a few words", ["--vocab-size", "0"], "argument --vocab-size: 0 is too small"),
        (b"a few words", ["--vocab-size", "many"], "invalid int value: 'many'"),
        (b"a few words", ["--seed", "-1"], "-1 is negative; give 0 or more"),
        (b"a few words", ["--seed", "x"], "invalid int value: 'x'"),
        (b"a few words", ["--tokenizer", "bpe"], "invalid choice: 'bpe'"),
        (b"a few words", ["--samples", "-1"], "argument --samples: -1 is negative"),
        (b"a few words", ["--samples", "1", "--seq-len", "1"], "argument --seq-len: 1 is too small"),
    ],
)
def test_bad_data_is_one_line(tmp_path: Path, monkeypatch, capsys, content, options: list[str], message: str) -> None:
    monkeypatch.setenv("VBW_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("VBW_DEBUG", raising=False)
    if content is not None:
        (tmp_path / "input.txt").write_bytes(content)
    assert cli.main(["data", "--data", str(tmp_path / "input.txt"), *options]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("vbw: error: ") and message in err


def test_output_paths_are_checked_before_the_work(tmp_path: Path) -> None:
    assert files.check_output(tmp_path / "new.json") == tmp_path / "new.json"
    assert not list(tmp_path.iterdir())  # checking writes nothing
    (tmp_path / "file").write_text("x")
    for path, message in (
        (tmp_path / "none" / "r.json", "none does not exist. Make it first"),
        (tmp_path / "file" / "r.json", "file is a file"),
        (tmp_path, "it is a folder"),
    ):
        with pytest.raises(UserError, match=message):
            files.check_output(path)


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    files.write_whole(path, "old ü")

    def fails(file) -> None:
        file.write(b"half of ")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        files.write_whole(path, fails)
    assert path.read_bytes() == "old ü".encode()
    files.write_whole(path, b"new")
    assert path.read_bytes() == b"new" and [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_blas_threads_are_told_to_sleep_before_numpy_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENBLAS_THREAD_TIMEOUT", raising=False)
    assert cli.main(["--version"]) == 0
    assert os.environ.pop("OPENBLAS_THREAD_TIMEOUT") == "16"
    monkeypatch.setenv("OPENBLAS_THREAD_TIMEOUT", "20")
    assert cli.main(["--version"]) == 0
    assert os.environ["OPENBLAS_THREAD_TIMEOUT"] == "20", "the user's own setting stands"
