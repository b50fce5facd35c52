"""Train the byte model three times and keep what each writes: what notebook 00 shows first. Minutes.

    python tools/notebooks/first_texts.py            # writes vbw_np/teach/first_texts.json

The same start, the same 1,000 steps of the same text; only the recipe differs. Each model then writes on from the same
prompt with the same random numbers, on the numbers it was trained with.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TARGET = ROOT / "vbw_np" / "teach" / "first_texts.json"
RECIPES = {
    "float32": ("fp32", "fp32"),
    "NVFP4": ("nvfp4-train", "nvfp4-train"),
    "a broken recipe": ("nvfp4-train:ste=off", "nvfp4-train"),
}
"""Title: recipe of training, recipe of writing."""

PROMPT = "def "


def vbw(*arguments: str) -> None:
    """Run the command as a user would."""
    subprocess.run([sys.executable, "-m", "vbw_np", *arguments], cwd=ROOT, check=True)


def written(folder: Path, title: str, seed: int, steps: int) -> dict[str, object]:
    """Train and write under one recipe."""
    training, writing = RECIPES[title]
    run, train, text = folder / title, folder / "train.json", folder / "text.json"
    vbw(
        "train", "--preset", "bytes", "--recipe", training, "--steps", str(steps), "--seed", str(seed),
        "--threads", "1", "--quiet", "--out", str(run), "--json", str(train),
    )  # fmt: skip
    vbw(
        "generate", "--checkpoint", str(run), "--recipe", writing, "--prompt", PROMPT, "--max-new-tokens", "240",
        "--seed", "1", "--json", str(text),
    )  # fmt: skip
    loss = json.loads(train.read_text("utf-8"))["result"]["val_loss"]
    wrote = PROMPT + json.loads(text.read_text("utf-8"))["text"]
    return {"recipe": training, "loss": round(loss, 3), "text": wrote}


def main() -> int:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory() as folder:
        texts = {title: written(Path(folder), title, 0, steps) for title in RECIPES}
    kept = {"made by": "tools/notebooks/first_texts.py", "steps": steps, "texts": texts}
    TARGET.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(TARGET.read_text("utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
