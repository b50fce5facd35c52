"""The user's own text: what is read, and what is refused in one clear sentence."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from vbw_np.data import batches, load_stream, load_text
from vbw_np.data.corpus import stdlib_text
from vbw_np.errors import DataError, UserError


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "sample.txt"
    path.write_bytes(b"one two\r\n")
    text = load_text(path)
    assert (text.name, text.files, text.contents, text.n_bytes) == ("sample.txt", ("sample.txt",), (b"one two\r\n",), 9)


def test_a_folder_is_read_in_sorted_order_without_hidden_or_binary_files(tmp_path: Path) -> None:
    for name, content in {
        "b.txt": b"b",
        "a/z.md": b"z",
        "a-b/x.md": b"x",
        ".git/config": b"no",
        ".hidden": b"no",
        "picture.png": b"\x89PNG\0",
        "empty.txt": b" \n",
        "a/__pycache__/m.py": b"no",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(content)
    text = load_text(str(tmp_path))
    assert text.files == ("a/z.md", "a-b/x.md", "b.txt")  # by part: the folder "a" before the folder "a-b"
    assert text.contents == (b"z", b"x", b"b")
    assert text.skipped == ("picture.png",)
    assert text.name == tmp_path.name


def test_a_folder_inside_a_zip_file_is_read_as_the_folder_is(tmp_path: Path) -> None:
    """Where Python runs in a browser, its own library is a zip file."""
    for name in ("lib/b.py", "lib/a/z.py", "lib/a-b/x.py", "lib/.git/x.py", "lib/a/__pycache__/m.py", "other/c.py"):
        (tmp_path / "plain" / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "plain" / name).write_text(name)
    (tmp_path / "plain" / "lib" / "no.bin").write_bytes(b"\0")
    packed = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "plain"))
    assert load_text(packed / "lib") == load_text(tmp_path / "plain" / "lib")
    assert load_text(packed / "lib").files == ("a/z.py", "a-b/x.py", "b.py")
    assert stdlib_text(packed / "lib") == stdlib_text(tmp_path / "plain" / "lib")
    with pytest.raises(DataError, match="nothing to read in the folder"):
        load_text(packed / "nowhere")
    with pytest.raises(DataError, match="does not exist"):
        load_text(tmp_path / "nowhere" / "lib")


def make(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "input.txt"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"input.txt is empty \(0 bytes"),
        (b" \n\t", "empty"),
        (b"ab\0c", "not a text file.*NUL byte at offset 2.*UTF-8"),
        ("text".encode("utf-16"), "NUL.*UTF-16"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_text(make(tmp_path, content))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere.txt does not exist.*--data takes a text file, a folder"):
        load_text(tmp_path / "nowhere.txt")


def test_folders_without_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no files with text"):
        load_text(tmp_path)
    (tmp_path / "x.bin").write_bytes(b"\0\1")
    with pytest.raises(DataError, match="1 files with content are binary"):
        load_text(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="neither a file nor a folder"):
        load_text(tmp_path / "pipe")
    (tmp_path / "a.txt").write_text("text")
    assert load_text(tmp_path).files == ("a.txt",)


@pytest.mark.skipif(sys.platform == "win32" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
def test_an_unreadable_file(tmp_path: Path) -> None:
    path = make(tmp_path, b"text")
    path.chmod(0)
    with pytest.raises(DataError, match="cannot read.*[Pp]ermission"):
        load_text(path)


def test_text_too_short_for_a_batch(tmp_path: Path) -> None:
    stream = load_stream(make(tmp_path, b"only a few words"), cache=False)
    with pytest.raises(DataError, match=r"input.txt is too short for a batch: it has 7 tokens.*128.*--seq-len 7"):
        batches(stream, 8, 128)


def test_every_refusal_is_the_users_error_and_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load_text(tmp_path / "missing")
    assert isinstance(error.value, ValueError) and "\n" not in str(error.value)
