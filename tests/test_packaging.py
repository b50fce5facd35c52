"""The door to `autograd` when another package has taken the name, and what a wheel carries."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A folder with another `autograd`, which leaves a trace when it is run."""
    package = tmp_path / "elsewhere" / "autograd"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("import sys; sys.foreign_ran = True\nfrom .core import grad\n")
    (package / "core.py").write_text("grad = 'the other one'\n")
    return package.parent


def python(code: str, *path: Path) -> subprocess.CompletedProcess[str]:
    """Run code with exactly these folders first on the path (-P: not the current one)."""
    return subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))},
        timeout=120,
        check=False,
    )


def installed_without_autograd(tmp_path: Path) -> Path:
    """A folder as pip leaves it when another `autograd` was installed over ours, or ours uninstalled with it."""
    site = tmp_path / "site"
    shutil.copytree(ROOT / "vbw_np", site / "vbw_np", ignore=shutil.ignore_patterns("__pycache__"))
    return site


def test_in_a_checkout_autograd_is_the_one_beside_vbw_np() -> None:
    done = python("from vbw_np.engine import autograd; print(autograd.__name__, autograd.__file__)", ROOT)
    assert done.stdout.split() == ["autograd", str(ROOT / "autograd" / "__init__.py")], done.stderr


USE_BOTH = """
import sys
{before}
from vbw_np.door import foreign_file
from vbw_np.engine import Tensor, autograd
from vbw_np.models.claude4 import Claude4
assert autograd.__vbw__
assert hasattr(sys, "foreign_ran") == {ran}, "the foreign one was run"
assert foreign_file(), "the foreign one was not noticed"
x = Tensor([1.0, 2.0], requires_grad=True)
(x * x).sum().backward()
assert x.grad.tolist() == [2.0, 4.0]
import autograd as plain                  # the other project still has its name, whole
assert plain.grad == "the other one"
from autograd.core import grad
print("ok")
"""


@pytest.mark.parametrize("before", ["", "import autograd"])
def test_a_foreign_autograd_first_on_the_path_is_neither_used_nor_broken(foreign: Path, before: str) -> None:
    done = python(USE_BOTH.format(before=before, ran=bool(before)), foreign, ROOT)
    assert done.stdout == "ok\n", done.stderr


def test_our_autograd_imported_first_is_the_one_that_is_used(foreign: Path) -> None:
    code = f"import autograd, sys; sys.path.insert(0, {str(foreign)!r}); "
    code += "from vbw_np.engine import autograd as a; print(a is autograd)"
    assert python(code, ROOT).stdout == "True\n"


def test_a_blocked_name_does_not_matter_in_a_checkout() -> None:
    code = "import sys; sys.modules['autograd'] = None; from vbw_np.engine import autograd; print(autograd.__name__)"
    done = python(code, ROOT)
    assert done.stdout == "vbw_np._autograd\n", done.stderr


def test_without_ours_the_error_names_the_foreign_file_and_the_fix(foreign: Path, tmp_path: Path) -> None:
    site = installed_without_autograd(tmp_path)
    done = python("import vbw_np.engine", foreign, site)
    error = done.stderr.splitlines()[-1]
    assert error.startswith("ImportError: 'autograd' is ")
    assert str(foreign / "autograd" / "__init__.py") in error
    assert "python -m venv .venv" in error and "pip uninstall autograd" in error


def test_autograd_overwritten_in_place_is_noticed(foreign: Path, tmp_path: Path) -> None:
    """`pip install autograd` after ours writes its files over ours."""
    site = installed_without_autograd(tmp_path)
    shutil.copytree(foreign / "autograd", site / "autograd")
    done = python("import vbw_np.engine", site)
    assert done.stderr.splitlines()[-1].startswith(f"ImportError: 'autograd' is {site / 'autograd' / '__init__.py'}")


def test_no_autograd_at_all(tmp_path: Path) -> None:
    blocked = "import sys; sys.modules['autograd'] = None; import vbw_np.engine"
    done = python(blocked, installed_without_autograd(tmp_path))
    assert done.stderr.splitlines()[-1].startswith("ImportError: vbw_np needs its own package 'autograd'")


def test_the_doctor_names_the_foreign_file(foreign: Path, tmp_path: Path) -> None:
    doctor = "import sys; from vbw_np.cli import main; sys.exit(main(['doctor']))"
    beside = python(doctor, foreign, ROOT)
    assert beside.returncode == 0 and f"note: 'import autograd' gives {foreign}" in beside.stdout
    in_the_way = python(doctor, foreign, installed_without_autograd(tmp_path))
    assert in_the_way.returncode == 1 and f"fault: autograd: 'autograd' is {foreign}" in in_the_way.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    builder = pytest.importorskip("hatchling.builders.wheel")
    folder = tmp_path_factory.mktemp("wheel")
    made = list(builder.WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"]))
    return zipfile.ZipFile(made[0])


def test_the_wheel_carries_both_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"autograd", "vbw_np"}
    assert {"autograd/py.typed", "vbw_np/py.typed"} <= set(wheel.namelist())
    assert not [name for name in wheel.namelist() if name.endswith((".nbi", ".nbc", ".pyc"))]
    assert any(name.endswith("/licenses/LICENSE") for name in wheel.namelist())


def test_the_wheel_carries_every_module(wheel: zipfile.ZipFile) -> None:
    paths = [path for top in ("autograd", "vbw_np") for path in (ROOT / top).rglob("*.py")]
    modules = {path.relative_to(ROOT).as_posix() for path in paths}
    assert modules <= set(wheel.namelist())


def test_the_wheel_runs_where_it_is_unpacked(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    done = python("from vbw_np.engine import autograd; print(autograd.__file__)", tmp_path)
    assert done.stdout.strip() == str(tmp_path / "autograd" / "__init__.py"), done.stderr


def test_the_wheel_has_the_command_and_asks_for_two_packages(wheel: zipfile.ZipFile) -> None:
    info = next(name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name)
    assert "vbw = vbw_np.cli:main" in wheel.read(f"{info}/entry_points.txt").decode()
    metadata = wheel.read(f"{info}/METADATA").decode()
    needed = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert sorted(needed) == ["Requires-Dist: numba>=0.63", "Requires-Dist: numpy>=1.26"]
    assert "Requires-Python: >=3.11" in metadata


def test_the_picture_of_a_report_is_whole_xml_with_all_its_text(tmp_path: Path) -> None:
    rule = "=" * 40
    cards = [f"[OK] placed layer.{i} (4 -> 4)" for i in range(62)]
    text = "\n".join([rule, "训练 <a & b>", rule, *cards, "Loss: 5.3", "Details", "not shown"])
    source, picture = tmp_path / "report.txt", tmp_path / "report.svg"
    source.write_text(text, encoding="utf-8")
    command = [sys.executable, str(ROOT / "tools" / "report_svg.py"), str(source), str(picture), "--until", "Details"]
    subprocess.run(command, check=True, timeout=60)
    shown = [node.text for node in ElementTree.parse(picture).getroot() if node.tag.endswith("}text")]
    assert shown == ["$ make bench", rule, "训练 <a & b>", rule, cards[0], cards[1], "... 59 more ...", cards[-1],
                     "Loss: 5.3", "..."]  # fmt: skip
    source.write_text("")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and "is empty" in done.stderr


def test_one_version_everywhere() -> None:
    import vbw_np

    assert f"\nversion: {vbw_np.__version__}\n" in (ROOT / "CITATION.cff").read_text("utf-8")
    assert PYPROJECT["project"]["dynamic"] == ["version"]


def test_files_are_tracked_that_a_reader_expects() -> None:
    for name in ("README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "docs/architecture.md"):
        assert (ROOT / name).is_file(), name


def test_the_doctor_names_files_that_two_distributions_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after `pip install` of both: each has a record of the file, and the last one wrote it."""
    from vbw_np import doctor

    installed = {"vbw-np": ["autograd/__init__.py", "vbw_np/x.py"], "autograd": ["autograd/__init__.py"]}
    for name, files in installed.items():
        info = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "RECORD").write_text("".join(f"{file},,\n" for file in [*files, f"{info.name}/RECORD"]))
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert doctor.claimed_twice() == {"distributions": "vbw-np and autograd", "files": ["autograd/__init__.py"]}
    (tmp_path / "autograd-1.0.dist-info" / "RECORD").write_text("other.py,,\n")
    assert doctor.claimed_twice() is None
