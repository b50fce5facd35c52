"""The process that somebody's quantizer runs in: Python, NumPy and this file, nothing else of the project.

    python worker.py FOLDER

FOLDER holds `request.json` (module, function, folder of the caller) and `inputs.npz`. For every input it writes
`NUMBER.npz`, the parts of the answer, or `NUMBER.json`, what was raised. The other side reads them as untrusted data.
"""

import importlib
import importlib.util
import json
import os
import sys
from pathlib import Path

import numpy as np


def plain(value):
    """An array that `np.load` reads without pickle: torch tensors, and 8-bit floats as their bytes."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().contiguous()
        torch = sys.modules["torch"]
        if value.dtype == torch.bfloat16:
            value = value.to(torch.float32)
        elif value.element_size() == 1 and value.dtype != torch.bool:
            value = value.view(torch.uint8)
        value = value.numpy()
    array = np.asarray(value)
    if array.dtype.name == "bfloat16":
        return array.astype(np.float32)
    return array.view(np.uint8) if array.dtype.itemsize == 1 and array.dtype.kind not in "biu" else array


def parts_of(value):
    """Names and arrays of what a quantizer returned."""
    names = ("codes", "scales", "tensor_scale")
    if hasattr(value, "items"):
        found = dict(value.items())
    elif isinstance(value, (tuple, list)):
        found = dict(zip(names, value))
    elif value is None:
        raise TypeError("it returns None; return a mapping with codes and scales")
    else:
        found = {"blocks": value}
    return {str(name): plain(part) for name, part in found.items() if part is not None}


def find(module, name):
    """The function, from a module or from a file whose name ends in .py."""
    if module.endswith(".py"):
        spec = importlib.util.spec_from_file_location("quantizer_under_test", module)
        found = importlib.util.module_from_spec(spec)
        sys.modules["quantizer_under_test"] = found
        spec.loader.exec_module(found)
    else:
        found = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    if not callable(found):
        raise TypeError(f"{module}:{name} is a {type(found).__name__}, not a function")
    return found


def write(folder, name, content):
    """A file that appears whole."""
    part = folder / f"{name}.part"
    with part.open("wb") as file:
        content(file)
    os.replace(part, folder / name)


def raised(folder, name, error):
    """What was raised, as text."""
    try:
        words = str(error)[:500]
    except BaseException:
        words = "(its text cannot be shown)"
    text = json.dumps({"type": type(error).__name__[:100], "words": words}).encode()
    write(folder, name, lambda file: file.write(text))


def main(folder):
    """Answer every input."""
    request = json.loads((folder / "request.json").read_text("utf-8"))
    sys.path.insert(0, request["beside"])
    with np.load(folder / "inputs.npz", allow_pickle=False) as file:
        inputs = [file[name] for name in sorted(file.files)]
    try:
        function = find(request["module"], request["function"])
    except BaseException as error:
        raised(folder, "missing.json", error)
        return
    write(folder, "found.json", lambda file: file.write(b"{}"))
    for number, x in enumerate(inputs):
        try:
            parts = parts_of(function(x))
        except BaseException as error:
            raised(folder, f"{number:04}.json", error)
        else:
            write(folder, f"{number:04}.npz", lambda file, parts=parts: np.savez(file, **parts))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
