"""The inner loops for CPUs with AVX2 and no more keep their accumulators in their sixteen registers."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

import llvmlite.binding as llvm
import pytest
from llvmlite import ir

from vbw_np.kernels.fp4 import intrinsics_matvec as matvec
from vbw_np.kernels.fp4 import intrinsics_tile as tiles
from vbw_np.simd.intrinsics import I64, Emitter
from vbw_np.simd.variant import Variant

TRIPLE = "x86_64-unknown-linux-gnu"


def main_loop(emit: Callable, arguments: int, cpu: str, features: str, dot: str) -> str:
    """The block of an emitter's machine code that has the most byte dot products."""
    try:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
        target = llvm.Target.from_triple(TRIPLE)
    except RuntimeError:
        pytest.skip("this LLVM has no x86 target")
    machine = target.create_target_machine(cpu=cpu, features=features, opt=3)
    module = ir.Module("kernel")
    module.triple = TRIPLE
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * arguments), "kernel")
    builder = ir.IRBuilder(function.append_basic_block())
    emit(Emitter(builder), *function.args)
    builder.ret_void()
    parsed = llvm.parse_assembly(str(module))
    passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(3))
    passes.getModulePassManager().run(parsed, passes)  # as numba does: this is what adds sums up in another order
    blocks = re.split(r"\n(?=\.LBB)", machine.emit_assembly(parsed))
    return max(blocks, key=lambda block: block.count(dot))


CPUS = {"avx2": ("haswell", "+avx2,+fma", "vpmaddubsw"), "avxvnni": ("alderlake", "+avx2,+fma,+avxvnni", "vpdpbusd")}


def through_memory(text: str) -> int:
    """How many vectors go to the stack or come from there."""
    return sum("(%rsp)" in line and "ymm" in line for line in text.splitlines())


@pytest.mark.parametrize("block", [16, 32])
@pytest.mark.parametrize(("name", "kept"), [("avx2", 12), ("avxvnni", 0)])  # once a block: six accumulators, out and in
def test_the_loop_has_registers_enough(name: str, kept: int, block: int) -> None:
    emit = partial(tiles._emit_tile_of, Variant(name, block))
    text = main_loop(emit, len(tiles.TILE_ARGUMENTS), *CPUS[name])
    assert text.count(CPUS[name][2]) == block // 4 * 6  # three rows, two vectors of columns
    assert through_memory(text) <= kept


@pytest.mark.parametrize("block", [16, 32])
@pytest.mark.parametrize(
    ("name", "rows", "kept"), [("avx2", 8, 21), ("avxvnni", 8, 11), ("avx2", 1, 0), ("avxvnni", 1, 0)]
)
def test_few_rows_have_registers_enough(name: str, rows: int, kept: int, block: int) -> None:
    """Of eight rows' 128 or 64 products, a block of weights aside, which is decoded into memory."""
    family = "mxfp4" if block == 32 else "nvfp4"
    text = main_loop(partial(matvec._emit_matvec_of, Variant(f"{name}+{family}+{rows}", block)), 11, *CPUS[name])
    assert text.count(CPUS[name][2]) == block // 4 * 2 * rows
    assert through_memory(text) <= kept
