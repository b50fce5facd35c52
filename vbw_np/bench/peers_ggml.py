"""ggml, the library under llama.cpp, as a peer: its compiled C, called in the shared libraries of llama-cpp-python.

The weights lie as llama.cpp lays them on this CPU: in a buffer of rows interleaved for its fastest kernels where ggml
has one for the type ("repacked"), else as they are in a file. What a product does with its activations is asked of
ggml itself; every product is compared with float32 before it is timed.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import machine
from ..formats.ggml import BY_NAME

TYPES = ("Q4_0", "Q4_K", "MXFP4")

MOST_WRONG = 0.01
"""Of a product with the decoded weights, relative to float32's: what is left is the activations' int8.

A step is a block's largest value over 127, and rounding errs by a step over the root of 12: 0.5% of values from a
normal distribution in blocks of 32 (the largest is 2.3 sigma), 0.7% in blocks of 256 (3 sigma).
"""

_P, _I, _N = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
_ToFloat = ctypes.CFUNCTYPE(None, _P, _P, _N)


class _Params(ctypes.Structure):
    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", _P), ("no_alloc", ctypes.c_bool))


class _Traits(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("elements", _N), ("interleaved", _N), ("bytes", ctypes.c_size_t),
                ("quantized", ctypes.c_bool), ("to_float", _ToFloat), ("from_float", _P))  # fmt: skip


class _CpuTraits(ctypes.Structure):
    _fields_ = (("from_float", _P), ("vec_dot", _P), ("activations", _I), ("rows", _N))


@ctypes.CFUNCTYPE(None, _I, ctypes.c_char_p, _P)
def _silent(level: int, text: bytes, data: object) -> None:
    """Takes what ggml tells about itself: a line for every tensor that it repacks."""


class _TensorHead(ctypes.Structure):
    _fields_ = (("type", _I), ("buffer", _P))


_SIGNATURES: dict[str, tuple[Any, ...]] = {  # of ggml.h, ggml-alloc.h, ggml-backend.h, ggml-cpu.h: result, arguments
    "ggml_log_set": (None, _P, _P),
    "ggml_quantize_chunk": (ctypes.c_size_t, _I, _P, _P, _N, _N, _N, _P),
    "ggml_get_type_traits": (ctypes.POINTER(_Traits), _I),
    "ggml_get_type_traits_cpu": (ctypes.POINTER(_CpuTraits), _I),
    "ggml_type_name": (ctypes.c_char_p, _I),
    "ggml_blck_size": (_N, _I),
    "ggml_init": (_P, _Params),
    "ggml_free": (None, _P),
    "ggml_tensor_overhead": (ctypes.c_size_t,),
    "ggml_graph_overhead": (ctypes.c_size_t,),
    "ggml_new_tensor_2d": (_P, _P, _I, _N, _N),
    "ggml_mul_mat": (_P, _P, _P, _P),
    "ggml_new_graph": (_P, _P),
    "ggml_build_forward_expand": (None, _P, _P),
    "ggml_get_data": (_P, _P),
    "ggml_backend_cpu_init": (_P,),
    "ggml_backend_cpu_set_n_threads": (None, _P, _I),
    "ggml_backend_free": (None, _P),
    "ggml_backend_get_device": (_P, _P),
    "ggml_backend_get_default_buffer_type": (_P, _P),
    "ggml_backend_dev_backend_reg": (_P, _P),
    "ggml_backend_dev_supports_op": (ctypes.c_bool, _P, _P),
    "ggml_backend_reg_get_proc_address": (_P, _P, ctypes.c_char_p),
    "ggml_backend_buft_alloc_buffer": (_P, _P, ctypes.c_size_t),
    "ggml_backend_buffer_free": (None, _P),
    "ggml_backend_alloc_ctx_tensors_from_buft": (_P, _P, _P),
    "ggml_backend_tensor_set": (None, _P, _P, ctypes.c_size_t, ctypes.c_size_t),
    "ggml_backend_graph_compute": (_I, _P, _P),
}


@functools.cache
def library() -> ctypes.CDLL:
    """libggml, and with it the two libraries that it needs, with every function's types told.

    Raises
    ------
    ImportError, OSError, AttributeError
        If llama-cpp-python or its library is missing, or a function in it.
    """
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("llama-cpp-python is not installed")
    name = {"darwin": "libggml.dylib", "win32": "ggml.dll"}.get(sys.platform, "libggml.so")
    found = ctypes.CDLL(str(Path(next(iter(spec.submodule_search_locations)), "lib", name)))
    for function, (result, *arguments) in _SIGNATURES.items():
        getattr(found, function).restype, getattr(found, function).argtypes = result, arguments
    found.ggml_log_set(_silent, None)
    return found


def threads() -> int:
    """As many as our kernels take."""
    numba = sys.modules.get("numba")
    return numba.get_num_threads() if numba else machine.cpu_count()


def activations(name: str) -> str:
    """What a product of this type does with its activations, in words: ggml's own answer."""
    ggml = library()
    kind = ggml.ggml_get_type_traits_cpu(BY_NAME[name].number).contents.activations
    return f"int8 activations ({ggml.ggml_type_name(kind).decode().lower()}: {ggml.ggml_blck_size(kind)} a scale)"


def _traits(name: str) -> _Traits:
    """The type as ggml knows it; a version that lays this out otherwise is not called."""
    kind, ggml = BY_NAME[name], library()
    traits = ggml.ggml_get_type_traits(kind.number).contents
    if (traits.elements, traits.bytes) != (kind.elements, kind.bytes):
        raise RuntimeError(f"this version of ggml lays out the traits of {name} otherwise")
    return traits


def _in_parts(function: Callable[[int, int], object], rows: int) -> Callable[[], None]:
    """`function(first, count)` over all rows, a part for each thread, as llama-quantize does it."""
    from concurrent.futures import ThreadPoolExecutor

    count = min(threads(), rows)
    bounds = [rows * i // count for i in range(count + 1)]
    if count == 1:
        return lambda: function(0, rows)
    pool = ThreadPoolExecutor(count)

    def run() -> None:
        list(pool.map(lambda i: function(bounds[i], bounds[i + 1] - bounds[i]), range(count)))

    weakref.finalize(run, pool.shutdown, wait=False)
    return run


def quantizer(w: Any, name: str) -> tuple[Callable[[], None], Any]:
    """What quantizes `w`, float32 (rows, columns), into blocks of this type; the blocks, uint8 (rows, bytes)."""
    import numpy as np

    kind, (rows, columns), ggml = BY_NAME[name], w.shape, library()
    _traits(name)
    if columns % kind.elements:
        raise ValueError(f"{name} has blocks of {kind.elements}, and a row is {columns} long")
    blocks = np.zeros((rows, columns // kind.elements * kind.bytes), np.uint8)

    def part(first: int, count: int) -> None:
        ggml.ggml_quantize_chunk(kind.number, w.ctypes.data, blocks.ctypes.data, first * columns, count, columns, None)

    return _in_parts(part, rows), blocks


def dequantizer(blocks: Any, name: str) -> tuple[Callable[[], None], Any]:
    """What decodes blocks, uint8 (rows, bytes); where it puts the values, float32 (rows, columns)."""
    import numpy as np

    kind, to_float = BY_NAME[name], _traits(name).to_float
    columns = blocks.shape[1] // kind.bytes * kind.elements
    values = np.zeros((len(blocks), columns), np.float32)

    def part(first: int, count: int) -> None:
        to_float(blocks[first:].ctypes.data, values[first:].ctypes.data, count * columns)

    return _in_parts(part, len(blocks)), values


def quantized(w: Any, name: str) -> tuple[Any, Any]:
    """The blocks of `w`, and the values they stand for."""
    quantize, blocks = quantizer(w, name)
    quantize()
    dequantize, values = dequantizer(blocks, name)
    dequantize()
    return blocks, values


class Product:
    """A graph of one product, x W^T, on ggml's CPU backend; a call computes it.

    Parameters
    ----------
    blocks : uint8 array (rows of W, bytes)
    x : float32 array (rows, columns of W)
    name : str
        The blocks' type.
    """

    def __init__(self, blocks: Any, x: Any, name: str) -> None:
        import numpy as np

        ggml, number = library(), BY_NAME[name].number
        (rows, columns), outputs = x.shape, len(blocks)
        self._compute, self._backend = ggml.ggml_backend_graph_compute, ggml.ggml_backend_cpu_init()
        ggml.ggml_backend_cpu_set_n_threads(self._backend, threads())
        room = 8 * ggml.ggml_tensor_overhead() + ggml.ggml_graph_overhead()
        ours, theirs = (ggml.ggml_init(_Params(room, None, True)) for _ in range(2))
        weight = ggml.ggml_new_tensor_2d(theirs, number, columns, outputs)
        rows_in = ggml.ggml_new_tensor_2d(ours, 0, columns, rows)
        result = ggml.ggml_mul_mat(ours, weight, rows_in)
        self._graph = ggml.ggml_new_graph(ours)
        ggml.ggml_build_forward_expand(self._graph, result)
        plain = ggml.ggml_backend_get_default_buffer_type(self._backend)
        repacked = _faster_buffer(ggml, self._backend, weight, result)
        self.repacked = repacked is not None
        weights = ggml.ggml_backend_alloc_ctx_tensors_from_buft(theirs, repacked or plain)
        numbers = ggml.ggml_backend_alloc_ctx_tensors_from_buft(ours, plain)
        ggml.ggml_backend_tensor_set(weight, blocks.ctypes.data, 0, blocks.nbytes)
        ggml.ggml_backend_tensor_set(rows_in, x.ctypes.data, 0, x.nbytes)
        weakref.finalize(self, _free, ggml, (weights, numbers), (ours, theirs), self._backend)
        data = (ctypes.c_float * (rows * outputs)).from_address(ggml.ggml_get_data(result))
        self.out = np.frombuffer(data, np.float32).reshape(rows, outputs)

    def __call__(self) -> None:
        if status := self._compute(self._backend, self._graph):
            raise RuntimeError(f"ggml_backend_graph_compute says {status}")


def _faster_buffer(ggml: ctypes.CDLL, backend: int, weight: int, product: int) -> int | None:
    """The first of the CPU's other kinds of buffers in which it takes this product; None if there is none."""
    device = ggml.ggml_backend_get_device(backend)
    address = ggml.ggml_backend_reg_get_proc_address(
        ggml.ggml_backend_dev_backend_reg(device), b"ggml_backend_dev_get_extra_bufts"
    )
    if not address:
        return None
    kinds = ctypes.CFUNCTYPE(ctypes.POINTER(_P), _P)(address)(device)
    head, index = _TensorHead.from_address(weight), 0
    while kinds and kinds[index]:
        head.buffer = ggml.ggml_backend_buft_alloc_buffer(kinds[index], 0)  # as if it lay there
        takes = ggml.ggml_backend_dev_supports_op(device, product)
        ggml.ggml_backend_buffer_free(head.buffer)
        head.buffer = None
        if takes:
            return kinds[index]
        index += 1
    return None


def _free(ggml: ctypes.CDLL, buffers: tuple[int, ...], contexts: tuple[int, ...], backend: int) -> None:
    for buffer in buffers:
        ggml.ggml_backend_buffer_free(buffer)
    for context in contexts:
        ggml.ggml_free(context)
    ggml.ggml_backend_free(backend)


# --------------------------------------------------------------------------------------------------- for the benchmark

Work = dict[str, Callable[[], object]]


def quantizers(w: Any) -> Work:
    """Quantizing `w`, by every type."""
    return {f"ggml {name.lower()}": _or_why_not(lambda n=name: quantizer(w, n)[0]) for name in TYPES}


def dequantizers(w: Any) -> Work:
    """Decoding the blocks of `w`, by every type."""
    return {f"ggml {name.lower()}": _or_why_not(lambda n=name: dequantizer(quantized(w, n)[0], n)[0]) for name in TYPES}


def products(w: Any, x: Any) -> Work:
    """x W^T by every type, each found right."""
    work: Work = {}
    for name in TYPES:
        function = _or_why_not(lambda n=name: _right_product(w, x, n))
        try:
            detail = ", " + activations(name)
        except (ImportError, OSError, AttributeError):
            detail = ""  # the function says why
        repacked = ", repacked" if getattr(function, "repacked", False) else ""
        work[f"ggml {name.lower()}{repacked}{detail}"] = function
    return work


def _right_product(w: Any, x: Any, name: str) -> Product:
    import numpy as np

    blocks, values = quantized(w, name)
    product = Product(blocks, x, name)
    product()
    expected = x @ values.T
    wrong = np.linalg.norm(product.out - expected) / np.linalg.norm(expected)
    if not wrong < MOST_WRONG:
        raise RuntimeError(f"its product is wrong by {wrong:.1%}")
    return product


def _or_why_not(make: Callable[[], Callable[[], object]]) -> Callable[[], object]:
    """What `make` makes; if it cannot, a function that says why: the benchmark asks each before it measures."""
    try:
        return make()
    except Exception as error:  # whatever a foreign library lacks
        why = error

        def cannot() -> None:
            raise why

        return cannot
