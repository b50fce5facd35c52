"""``vbw bench model``: how fast a language model writes and reads, by recipe, and beside llama.cpp.

All contestants are in one process with the same number of threads and are measured in turns. llama.cpp takes part where
llama-cpp-python is installed (``pip install 'vbw-np[peers-llama]'`` builds it, ``make peers`` does so): with a GGUF
file as it is, and requantized to Q4_0, for which its kernels are fastest. Tokens are drawn at random; speed does not
depend on them.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from .. import options

VERBS = {"model": "tokens a second of a language model, by recipe, and of llama.cpp where it is installed"}


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class Contestant(Protocol):
    """Somebody who reads tokens and gives the logits of what follows; NumPy's integers."""

    def read(self, ids: Any) -> None:
        """A text from its beginning."""

    def go_on(self, token: int) -> None:
        """One token more."""

    def back_to(self, length: int) -> None:
        """Forget all but the first tokens."""

    def facts(self) -> dict[str, Any]:
        """What it takes."""


def add_commands(subparsers: argparse._SubParsersAction) -> None:
    """Add ``vbw bench model``."""
    parser = subparsers.add_parser("model", help=VERBS["model"], description=__doc__)
    parser.add_argument("--model", type=options.path, required=True, metavar="FILE",
                        help="a GGUF file, or a folder with safetensors (make model gets one)")  # fmt: skip
    parser.add_argument("--recipe", type=options.name, default="nvfp4,mxfp4", metavar="NAMES",
                        help="recipes or formats of the layers, by commas (nvfp4,mxfp4)")  # fmt: skip
    parser.add_argument("--contexts", type=options.name, default="64,512", metavar="NUMBERS",
                        help="tokens that are read before writing is timed (64,512)")  # fmt: skip
    parser.add_argument("--kv-keys", type=options.name, metavar="FORMAT", help="format in which keys are kept")
    parser.add_argument("--kv-values", type=options.name, metavar="FORMAT", help="format in which values are kept")
    parser.add_argument("--tokens", type=options.whole(1), default=32, metavar="N",
                        help="tokens written in one measurement (32)")  # fmt: skip
    parser.add_argument("--rounds", type=options.whole(1), default=5, metavar="N",
                        help="measurements of everything (5)")  # fmt: skip
    parser.add_argument("--threads", type=options.whole(1), metavar="N",
                        help="for everybody (as many as there are processors)")  # fmt: skip
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall",
                        help="cpu: processor time, for a busy machine; with --threads 1 (wall)")  # fmt: skip
    parser.add_argument("--json", type=options.path, metavar="FILE",
                        help="write everything with raw samples; '-': to stdout, no table")  # fmt: skip
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; returns the exit code."""
    from ..errors import UserError
    from .environment import prepare_process
    from .output import emit

    contexts = arguments.contexts.split(",")
    if not all(part.isdecimal() and int(part) > 0 for part in contexts):
        raise UserError(f"--contexts {arguments.contexts}: give numbers of tokens, such as 64,512")
    taken_away = prepare_process(arguments.threads)
    settings = {
        "recipes": arguments.recipe.split(","),
        "contexts": sorted(map(int, contexts)),
        "tokens": arguments.tokens,
        "rounds": arguments.rounds,
        "keys": arguments.kv_keys,
        "values": arguments.kv_values,
        "clock": arguments.clock,
    }
    return emit(arguments.json, lambda: measure(Path(arguments.model), settings, arguments.threads, taken_away), table)


# ------------------------------------------------------------------------------------------------------ contestants


class Ours:
    """A Llama on cards."""

    def __init__(self, model: Any, recipe: str, capacity: int, keys: str | None, values: str | None) -> None:
        from ..models.llama_cards import place_llama
        from ..models.llama_token import LlamaReader

        for device in place_llama(model, recipe):
            device.drop_masters()
        self._model, self._reader = model, LlamaReader(model, 1, capacity, keys=keys, values=values)

    def read(self, ids: Any) -> None:
        """See `Contestant`."""
        self._reader.cache.length = 0
        self._reader.logits(ids[None])

    def go_on(self, token: int) -> None:
        """See `Contestant`."""
        import numpy as np

        self._reader.logits(np.array([[token]]))

    def back_to(self, length: int) -> None:
        """See `Contestant`."""
        self._reader.cache.length = length

    def facts(self) -> dict[str, Any]:
        """Bits and bytes, once something was computed; and how."""
        from ..models.llama_cards import traffic

        found, reader = traffic(self._model), self._reader
        return {
            "bits_a_weight": found.bits,
            "bytes_read_a_token": found.nbytes,
            "bytes_kept_a_token": reader.cache.token_nbytes,
            "in_one_call": reader.in_one_call,
            "why_not": reader.why_not,
        }


class LlamaCpp:
    """llama.cpp by llama-cpp-python."""

    def __init__(self, file: str, capacity: int, threads: int) -> None:
        import llama_cpp

        self._bytes = os.path.getsize(file)
        self._llama = llama_cpp.Llama(
            file, n_ctx=capacity, n_batch=capacity, n_ubatch=capacity, n_threads=threads, n_threads_batch=threads,
            verbose=False,
        )  # fmt: skip

    def read(self, ids: Any) -> None:
        """See `Contestant`."""
        self._llama.n_tokens = 0
        self._llama.eval(ids.tolist())

    def go_on(self, token: int) -> None:
        """See `Contestant`."""
        self._llama.eval([token])

    def back_to(self, length: int) -> None:
        """See `Contestant`."""
        self._llama.n_tokens = length

    def facts(self) -> dict[str, Any]:
        """The size of the file."""
        return {"file_bytes": self._bytes}


_KEPT: list[Any] = []
"""The function that llama.cpp gives its lines of log to, for as long as it may."""


def requantized(file: Path, folder: str) -> str:
    """A GGUF file whose matrices llama.cpp has rounded to Q4_0."""
    import llama_cpp

    from ..errors import UserError

    made = os.path.join(folder, "q4_0.gguf")
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype, settings.allow_requantize = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0, True
    _KEPT.append(llama_cpp.llama_log_callback(lambda level, text, data: None))
    llama_cpp.llama_log_set(_KEPT[0], ctypes.c_void_p(0))
    if llama_cpp.llama_model_quantize(str(file).encode(), made.encode(), ctypes.byref(settings)):
        raise UserError(f"llama.cpp cannot requantize {file} to Q4_0")
    return made


def version() -> str | None:
    """The version of llama-cpp-python, or None."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("llama_cpp_python") if importlib.util.find_spec("llama_cpp") else None
    except PackageNotFoundError:
        return None


# -------------------------------------------------------------------------------------------------------- measuring


def measure(
    file: Path, settings: dict[str, Any], threads: int | None, taken_away: dict[str, str]
) -> dict[str, Any]:
    """Everybody at every context, in turns; raw samples in seconds."""
    from ..machine import cpu_count
    from .environment import describe

    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        everybody = dict(_contestants(file, folder, settings, threads or cpu_count()))
        samples = _samples(everybody, settings)
        facts = {name: contestant.facts() for name, contestant in everybody.items()}
    return {
        "schema_version": 1,
        "model": file.name,
        "settings": settings,
        "threads": threads or cpu_count(),
        "llama_cpp": version(),
        "machine": describe(taken_away),
        "contestants": facts,
        "samples_s": samples,
    }


def _contestants(
    file: Path, folder: str, settings: dict[str, Any], threads: int
) -> Iterator[tuple[str, Contestant]]:
    from ..models.llama_cards import recipe_of
    from ..models.llama_files import config_of, load_llama, open_checkpoint

    for recipe in settings["recipes"]:
        recipe_of(recipe)  # refuses what is not known before anything is loaded
    config_of(open_checkpoint(file))
    capacity = settings["contexts"][-1] + settings["tokens"] + 1
    for recipe in settings["recipes"]:
        print(f"placing {recipe}", file=sys.stderr)
        yield f"vbw-np {recipe}", Ours(load_llama(file), recipe, capacity, settings["keys"], settings["values"])
    if version() and file.suffix == ".gguf":
        yield f"llama.cpp {file.name}", LlamaCpp(str(file), capacity, threads)
        yield "llama.cpp requantized to Q4_0", LlamaCpp(requantized(file, folder), capacity, threads)


def _samples(everybody: dict[str, Any], settings: dict[str, Any]) -> dict[str, dict[str, list[float]]]:
    """Of each contestant: seconds for a prompt and seconds a token after it, by the number of tokens."""
    import numpy as np

    contexts, count, clock = settings["contexts"], settings["tokens"], CLOCKS[settings["clock"]]
    ids = np.random.default_rng(0).integers(10, 250, contexts[-1] + count + 1)
    samples: dict[str, dict[str, list[float]]] = {name: {} for name in everybody}
    for context in contexts:
        for round_ in range(settings["rounds"] + 1):  # the first compiles, and is not counted
            print(f"context {context}, round {round_} of {settings['rounds']}", file=sys.stderr)
            for name, contestant in everybody.items():
                began = clock()
                contestant.read(ids[:context])
                prompt = clock() - began
                contestant.go_on(int(ids[context]))
                contestant.back_to(context)
                began = clock()
                for token in ids[context : context + count]:
                    contestant.go_on(int(token))
                taken = clock() - began
                if round_:
                    samples[name].setdefault(f"prompt {context}", []).append(prompt)
                    samples[name].setdefault(f"token {context}", []).append(taken / count)
    return samples


# ------------------------------------------------------------------------------------------------------------ words


def table(result: dict[str, Any]) -> str:
    """The result for people: medians, and ratios paired by rounds."""
    from .timing import median

    contexts, samples = result["settings"]["contexts"], result["samples_s"]
    width = max(map(len, samples))
    clock = "" if result["settings"]["clock"] == "wall" else ", seconds of processor time"
    lines = [f"{result['model']}, {result['threads']} threads, {result['machine']['cpu']}{clock}", ""]
    heads = [f"tokens/s after {n}" for n in contexts] + [f"prompt of {n}, tokens/s" for n in contexts]
    lines.append(" " * width + "".join(f"  {head:>24}" for head in [*heads, f"first token of {contexts[-1]}, ms"]))
    for name, found in samples.items():
        numbers = [1 / median(found[f"token {n}"]) for n in contexts]
        numbers += [n / median(found[f"prompt {n}"]) for n in contexts]
        numbers.append(1e3 * median(found[f"prompt {contexts[-1]}"]))
        lines.append(f"{name:<{width}}" + "".join(f"  {number:24,.1f}" for number in numbers))
    lines += ["", *_facts(result), *_ratios(result)]
    if result["llama_cpp"] is None:
        lines.append("llama.cpp is not installed: make peers, or pip install 'vbw-np[peers-llama]', builds it")
    return "\n".join(lines)


def _facts(result: dict[str, Any]) -> Iterator[str]:
    for name, facts in result["contestants"].items():
        if "bits_a_weight" in facts:
            way = "one call a token" if facts["in_one_call"] else f"layer by layer: {facts['why_not']}"
            yield (
                f"{name}: {facts['bits_a_weight']:.2f} bits a weight, {facts['bytes_read_a_token'] / 1e6:,.1f} MB of "
                f"weights read a token, {facts['bytes_kept_a_token']:,} bytes kept of it; {way}"
            )
        else:
            yield f"{name}: a file of {facts['file_bytes'] / 1e6:,.1f} MB"


def _ratios(result: dict[str, Any]) -> Iterator[str]:
    from .timing import paired_ratio

    samples = result["samples_s"]
    peers = [name for name in samples if name.startswith("llama.cpp")]
    for ours in (name for name in samples if name not in peers):
        for peer in peers:
            ratios = {key: paired_ratio(samples[peer][key], samples[ours][key]) for key in samples[ours]}
            told = ", ".join(f"{key} {ratio:.2f} x" for key, ratio in ratios.items())
            yield f"{ours} against {peer}: {told}"
