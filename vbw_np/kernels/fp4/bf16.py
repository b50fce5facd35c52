"""Products on weights decoded to bfloat16: float32 activations rounded to bfloat16, float32 sums.

An FP4 value times its block scale (E8M0 or E4M3) is *exact* in bfloat16; only NVFP4's second-level factor has to stay
outside. So decoding to bfloat16 loses nothing and halves the bytes of a decoded weight. On AMX the product then runs
several times as fast as in float32; with `vdpbf16ps` alone (two products a lane, added in float32) it depends on the
core: about twice as fast where two units do it, no faster where one does. The activations are rounded to 8 significant
bits (relative error at most 2**-9 each).

Both instructions add pairs in their own order and flush subnormals, so this product, unlike the tensor core's, promises
an error bound and not bits. Elsewhere (`bf16_native()` tells) NumPy multiplies the same rounded numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir

from ..simd import cpu
from ..simd.intrinsics import F32, I8, I32, Emitter, loop_intrinsic, vec
from ..simd.jit import jit, pjit
from .intrinsics_amx import configure, release, scale_right
from .intrinsics_tile import KernelPath
from .panels import RightOperand, aligned_empty, half_scales

_ROWS, _PANELS = 6, 2


def bf16_native() -> bool:
    """Whether the CPU multiplies bfloat16 pairs (AVX512_BF16) and numba may use it."""
    needs = {"avx512bf16", "avx512f", "avx512bw", "avx512vl"}
    return needs <= cpu.features() and not cpu.jit_disabled()


@dataclass(frozen=True, eq=False)
class Bf16Weights:
    """A weight (N, K) decoded to bfloat16 in panels.

    Parameters
    ----------
    panels : uint16 array (N / 16, K padded / 2, 16, 2)
        bfloat16 bits: two consecutive k of 16 rows of the weight.
    factor : np.float32
        The second-level factor, applied to the product.
    shape : (N, K)
    """

    panels: np.ndarray
    factor: np.float32
    shape: tuple[int, int]

    def decode(self) -> np.ndarray:
        """The float32 numbers without the factor, (N, K)."""
        rows = self.panels.transpose(0, 2, 1, 3).reshape(self.panels.shape[0] * 16, -1)
        return (rows.astype(np.uint32) << 16).view(np.float32)[: self.shape[0], : self.shape[1]]


def decode_bf16(right: RightOperand) -> Bf16Weights:
    """Decode a packed weight to bfloat16 panels: exact, except that scales beyond float32's normal range are lost."""
    panels, groups = right.codes.shape[:2]
    target = aligned_empty((panels, groups * 4, 16, 2), np.uint16)
    if bf16_native():
        mode = KernelPath("bf16", right.block)
        _decode_panels(mode, right.codes, half_scales(right.fmt)[right.scales], target)
    else:
        scaled = np.zeros((panels * 16, groups * 8), np.float32)
        scaled[: right.shape[0]] = right.values() * np.repeat(right.half_scales(), right.block, axis=1)
        bits = (scaled.view(np.uint32) >> 16).astype(np.uint16)
        target[...] = bits.reshape(panels, 16, groups * 4, 2).transpose(0, 2, 1, 3)
    return Bf16Weights(target, right.factor, right.shape)


def round_bf16(x: np.ndarray) -> np.ndarray:
    """The bfloat16 bits of float32 numbers, ties to even; uint16. NaN stays NaN."""
    u = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = (u + np.uint32(0x7FFF) + ((u >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(x), np.uint32(0x7FC0), rounded).astype(np.uint16)


def matmul_bf16(x: np.ndarray, weights: Bf16Weights, out: np.ndarray | None = None) -> np.ndarray:
    """The product `x @ W.T` in bfloat16 with float32 sums.

    Parameters
    ----------
    x : float32 (M, K)
    weights : Bf16Weights (N, K)
    out : float32 (M, N), C-contiguous, optional
    """
    if not isinstance(x, np.ndarray) or x.dtype != np.float32 or x.ndim != 2 or x.shape[1] != weights.shape[1]:
        found = f"{getattr(x, 'dtype', type(x).__name__)} {getattr(x, 'shape', '')}"
        raise ValueError(f"x must be float32 with {weights.shape[1]} columns (W is {weights.shape}), got {found}")
    shape = (x.shape[0], weights.shape[0])
    if out is None:
        out = np.empty(shape, np.float32)
    elif out.shape != shape or out.dtype != np.float32 or not out.flags.c_contiguous:
        raise ValueError(f"out must be C-contiguous float32 {shape}, got {out.dtype} {out.shape}")
    if not bf16_native():
        rounded = (round_bf16(x).astype(np.uint32) << np.uint32(16)).view(np.float32)
        np.matmul(rounded, weights.decode().T, out=out)
        out *= weights.factor
        return out
    length = weights.panels.shape[1] * 2
    if length % 32 == 0 and cpu.choose_path() == "amx":
        tiles = aligned_empty((-(-shape[0] // 32) * 2, length // 32, 16, 32), np.uint16)
        _round_tiles(np.ascontiguousarray(x).view(np.uint32), tiles)
        _product_amx(KernelPath("amx", 32), tiles, weights.panels, weights.factor, out)
        return out
    rows = aligned_empty((-(-shape[0] // _ROWS) * _ROWS, length), np.uint16)
    _round_rows(np.ascontiguousarray(x).view(np.uint32), rows)
    _product_bf16(rows, weights.panels, weights.factor, out)
    return out


def _emit_tile(e: Emitter, a, a_stride, b, b_stride, pairs, out, out_stride) -> None:  # type: ignore[no-untyped-def]
    """6 rows by 2 panels, `pairs` pairs of k."""
    float_ty, int_ty = vec(F32, 16), vec(I32, 16)
    asm_ty = ir.FunctionType(float_ty, [float_ty, int_ty, int_ty])
    llvm.initialize_native_asmparser()  # (named by its assembly: LLVM 15 and 22 disagree on the intrinsic's types)
    dot = ir.InlineAsm(asm_ty, "vdpbf16ps $2, $3, $0", "=v,0,v,v")
    keys = [(r, p) for r in range(_ROWS) for p in range(_PANELS)]

    def body(i: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
        right = [e.load(int_ty, e.at(b, e.times(b_stride, p), e.times(i, 64))) for p in range(_PANELS)]
        left = [e.splat(e.load(I32, e.at(a, e.times(a_stride, r), e.times(i, 4)), align=2), 16) for r in range(_ROWS)]
        return [e.b.call(dot, [total, left[r], right[p]]) for (r, p), total in zip(keys, sums, strict=True)]

    sums = e.loop(pairs, [ir.Constant(float_ty, None)] * len(keys), body)
    for (r, p), total in zip(keys, sums, strict=True):
        e.store(total, e.at(out, e.times(out_stride, r), p * 64))


_tile = loop_intrinsic(7, _emit_tile)


@pjit
def _decode_panels(mode, codes, scales, target):  # type: ignore[no-untyped-def]
    blocks, length = scales.shape[1], codes.shape[1] * 8
    for p in numba.prange(codes.shape[0]):
        source, scale = codes.ctypes.data + p * length * 8, scales.ctypes.data + p * blocks * 64
        scale_right(mode, source, scale, blocks, target.ctypes.data + p * length * 32)


@jit
def _round_row(bits, rounded):  # type: ignore[no-untyped-def]
    for k in range(bits.size):
        u = bits[k]
        up = (u + np.uint32(0x7FFF) + ((u >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        rounded[k] = np.uint16(0x7FC0) if (u & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000) else np.uint16(up)


@pjit
def _round_rows(bits, rounded):  # type: ignore[no-untyped-def]
    for m in numba.prange(rounded.shape[0]):
        rounded[m] = 0
        if m < bits.shape[0]:
            _round_row(bits[m], rounded[m])


@pjit
def _product_bf16(rows, panels, factor, out):  # type: ignore[no-untyped-def]
    length = rows.shape[1]
    for group in numba.prange((panels.shape[0] + _PANELS - 1) // _PANELS):
        sums = np.empty((_ROWS, 16 * _PANELS), np.float32)
        first = min(group * _PANELS, max(panels.shape[0] - _PANELS, 0))
        stride = length * 32 if panels.shape[0] > 1 else 0
        count = min(16 * _PANELS, out.shape[1] - first * 16)
        for m in range(0, rows.shape[0], _ROWS):
            a, b = rows.ctypes.data + m * length * 2, panels.ctypes.data + first * length * 32
            _tile(a, length * 2, b, stride, length // 2, sums.ctypes.data, 64 * _PANELS)
            for r in range(min(_ROWS, out.shape[0] - m)):
                for c in range(count):
                    out[m + r, first * 16 + c] = sums[r, c] * factor


# ---- on AMX: tiles of 32 rows by 2 panels stay in the tile registers for the whole reduction -----------------


def _emit_tile_amx(e: Emitter, a, a_stride, b, b_stride, count, out, out_stride) -> None:  # type: ignore[no-untyped-def]
    """Row tiles [count][16][32] times panels [count * 16][16][2], 32 k at a time."""

    def tile(name: str, *args: object) -> None:
        e.call(f"llvm.x86.{name}", ir.VoidType(), *[e.int(x, I8) if isinstance(x, int) else x for x in args])

    def pointer(address: ir.Value) -> ir.Value:
        return e.b.inttoptr(address, I8.as_pointer())

    def body(i: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        at = e.times(i, 1024)
        for r in range(2):
            tile("tileloadd64", 4 + r, pointer(e.at(a, e.times(a_stride, r), at)), e.int(64))
        for p in range(2):
            tile("tileloadd64", 6 + p, pointer(e.at(b, e.times(b_stride, p), at)), e.int(64))
        for c in range(4):
            tile("tdpbf16ps", c, 4 + c // 2, 6 + c % 2)
        return []

    for c in range(4):
        tile("tilezero", c)
    e.loop(count, [], body)
    for c in range(4):
        place = e.at(out, e.times(out_stride, 16 * (c // 2)), 64 * (c % 2))
        tile("tilestored64", c, pointer(place), out_stride)


_tile_amx = loop_intrinsic(7, _emit_tile_amx)


@pjit
def _round_tiles(bits, tiles):  # type: ignore[no-untyped-def]
    """float32 rows to bfloat16 row tiles [M / 16][K / 32][16][32], filled up with zeros."""
    for t in numba.prange(tiles.shape[0]):
        tiles[t] = 0
        for r in range(min(16, bits.shape[0] - t * 16)):
            for b in range(tiles.shape[1]):
                last = min(b * 32 + 32, bits.shape[1])
                _round_row(bits[t * 16 + r, b * 32 : last], tiles[t, b, r])


@pjit
def _product_amx(mode, tiles, panels, factor, out):  # type: ignore[no-untyped-def]
    count = tiles.shape[1]
    stride = count * 1024  # bytes of a row tile, and of a panel
    for group in numba.prange((panels.shape[0] + 1) // 2):
        sums, buffer = np.empty((32, 32), np.float32), np.zeros(256, np.uint8)
        configure(mode, buffer.ctypes.data)
        first = min(group * 2, max(panels.shape[0] - 2, 0))
        width = min(32, out.shape[1] - first * 16)
        b = panels.ctypes.data + first * stride
        for t in range(0, tiles.shape[0], 2):
            a = tiles.ctypes.data + t * stride
            _tile_amx(a, stride, b, stride if panels.shape[0] > 1 else 0, count, sums.ctypes.data, 128)
            for r in range(min(32, out.shape[0] - t * 16)):
                for c in range(width):
                    out[t * 16 + r, first * 16 + c] = sums[r, c] * factor
        release()
