"""Every file that declares an operation is imported before the walks over all of them are collected."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DECLARES = re.compile(r"^@(autograd\.)?(primitive|procedure)\b", re.MULTILINE)

for path in sorted((ROOT / "vbw_np").rglob("*.py")):
    if DECLARES.search(path.read_text("utf-8")):
        importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
