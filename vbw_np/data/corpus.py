"""Bytes of text, file by file, in an order that does not depend on the machine."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import platform
import sysconfig
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import DataError

_NOT_STDLIB = frozenset({"site-packages", "dist-packages", "__pycache__"})


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Text as it lies on the disk.

    Attributes
    ----------
    name : str
        What a report calls it.
    files : tuple of str
        Names of the files, relative to their folder, with forward slashes, sorted part by part.
    contents : tuple of bytes
        What is in them.
    skipped : tuple of str
        Files of the folder that were left out because they are not text (they hold NUL bytes).
    """

    name: str
    files: tuple[str, ...]
    contents: tuple[bytes, ...] = dataclasses.field(repr=False)
    skipped: tuple[str, ...] = dataclasses.field(default=(), repr=False)

    @property
    def n_bytes(self) -> int:
        """Size of all files together."""
        return sum(map(len, self.contents))

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of the contents one after another, as of ``cat`` of the files in order."""
        digest = hashlib.sha256()
        for content in self.contents:
            digest.update(content)
        return digest.hexdigest()

    def texts(self) -> Iterator[str]:
        """Each file as text: UTF-8, with U+FFFD in place of bytes that are not."""
        for content in self.contents:
            yield content.decode("utf-8", errors="replace")


def _read(path: str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError as error:
        raise DataError(
            f"data: cannot read {path}: {error.strerror}. Check its permissions, or name another file."
        ) from error


Found = list[tuple[tuple[str, ...], Callable[[], bytes]]]
"""Files as their path's parts, sorted by them (the same order on every system), each with what reads it."""


def _walk(root: Path, wanted: Callable[[str], bool], skip_folders: Callable[[str], bool]) -> Found:
    """Regular files below `root`, which may lie in a zip file, as Python's own library does where it is packed."""
    archive = _archive_of(root)
    if archive is not None:
        return _walk_archive(archive, root.relative_to(archive).parts, wanted, skip_folders)
    found: Found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not skip_folders(name)]
        parts = Path(folder).relative_to(root).parts
        for name in names:
            path = os.path.join(folder, name)
            if wanted(name) and os.path.isfile(path):
                found.append(((*parts, name), functools.partial(_read, path)))
    return sorted(found, key=lambda one: one[0])


def _archive_of(path: Path) -> Path | None:
    """The zip file that a path leads into, if it does."""
    return next((place for place in (path, *path.parents) if place.is_file() and zipfile.is_zipfile(place)), None)


def _walk_archive(
    archive: Path, inside: tuple[str, ...], wanted: Callable[[str], bool], skip_folders: Callable[[str], bool]
) -> Found:
    def read(name: str) -> bytes:
        with zipfile.ZipFile(archive) as packed:
            return packed.read(name)

    found: Found = []
    with zipfile.ZipFile(archive) as packed:
        for name in packed.namelist():
            parts = tuple(name.split("/"))
            below = parts[len(inside) :]
            if parts[: len(inside)] != inside or not below or not below[-1]:
                continue
            if wanted(below[-1]) and not any(map(skip_folders, below[:-1])):
                found.append((below, functools.partial(read, name)))
    return sorted(found, key=lambda one: one[0])


def stdlib_text(root: str | os.PathLike[str] | None = None) -> Corpus:
    """The sources of the Python standard library that runs this program: real text that every machine has.

    Parameters
    ----------
    root : path, optional
        Another folder of sources; default: the ``stdlib`` path of `sysconfig`.

    Returns
    -------
    Corpus
        All ``.py`` files below it, installed packages left out, in sorted order. About 31 MB with CPython 3.11.

    Raises
    ------
    DataError
        If there are none: some systems ship the library compiled.
    """
    folder = Path(root) if root is not None else _home()
    files = _walk(folder, lambda name: name.endswith(".py"), lambda name: name in _NOT_STDLIB)
    if not files:
        raise DataError(
            f"data: no sources of the standard library in {folder}: this Python keeps them compiled. "
            "Use your own text (--data FILE or --data DIR) or --data random."
        )
    return Corpus(
        name=f"Python {platform.python_version()} standard library",
        files=tuple("/".join(parts) for parts, _ in files),
        contents=tuple(read() for _, read in files),
    )


def _home() -> Path:
    """Where this Python has its library: a folder, or a zip file (in a browser)."""
    folder = Path(sysconfig.get_path("stdlib"))
    packed = Path(os.__file__).parent
    return packed if not (folder / "os.py").is_file() and _archive_of(packed) else folder


def load_text(path: str | os.PathLike[str]) -> Corpus:
    """The user's own text: one file, or all text files below a folder.

    Of a folder, hidden files and folders and ``__pycache__`` are left out, and files with NUL bytes are skipped and
    named in `Corpus.skipped`.

    Raises
    ------
    DataError
        If the path is missing, is neither file nor folder, cannot be read, is binary, or holds no text.
    """
    path = Path(path).expanduser()
    if path.is_dir() or (not path.exists() and _archive_of(path)):
        return _load_folder(path)
    if not path.exists():
        raise DataError(
            f"data: {path} does not exist (looked in {Path.cwd()}). "
            "Check the spelling; --data takes a text file, a folder, 'stdlib' or 'random'."
        )
    if not path.is_file():
        raise DataError(f"data: {path} is neither a file nor a folder. Save the text in a file and name that.")
    content = _read(str(path))
    if b"\0" in content:
        raise DataError(
            f"data: {path} is not a text file: it has a NUL byte at offset {content.index(0)}. "
            "Give UTF-8 text (UTF-16 has NUL bytes too: save it as UTF-8)."
        )
    if not content.strip():
        raise DataError(f"data: {path} is empty ({len(content)} bytes, no words). Give a file with text.")
    return Corpus(name=path.name, files=(path.name,), contents=(content,))


def _load_folder(folder: Path) -> Corpus:
    files = _walk(
        folder,
        wanted=lambda name: not name.startswith("."),
        skip_folders=lambda name: name.startswith(".") or name == "__pycache__",
    )
    names, contents, skipped = [], [], []
    for parts, read in files:
        content = read()
        if b"\0" in content:
            skipped.append("/".join(parts))
        elif content.strip():
            names.append("/".join(parts))
            contents.append(content)
    if not names:
        why = f"its {len(skipped)} files with content are binary" if skipped else "it has no files with text"
        raise DataError(f"data: nothing to read in the folder {folder}: {why}. Give a folder with UTF-8 text files.")
    return Corpus(name=folder.resolve().name, files=tuple(names), contents=tuple(contents), skipped=tuple(skipped))
