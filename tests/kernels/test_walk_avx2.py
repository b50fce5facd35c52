"""The inner loop for CPUs with AVX2 and no more keeps its accumulators in their sixteen registers."""

from __future__ import annotations

import re

import llvmlite.binding as llvm
import pytest
from llvmlite import ir

from vbw_np.kernels.fp4 import intrinsics_tile as tiles
from vbw_np.kernels.simd.intrinsics import I64, Emitter
from vbw_np.kernels.simd.variant import Variant

TRIPLE = "x86_64-unknown-linux-gnu"


def main_loop(variant: Variant, cpu: str, features: str, dot: str) -> str:
    """The block of a tile's machine code that has the most byte dot products."""
    try:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
        target = llvm.Target.from_triple(TRIPLE)
    except RuntimeError:
        pytest.skip("this LLVM has no x86 target")
    machine = target.create_target_machine(cpu=cpu, features=features, opt=3)
    module = ir.Module("kernel")
    module.triple = TRIPLE
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * len(tiles.TILE_ARGUMENTS)), "kernel")
    builder = ir.IRBuilder(function.append_basic_block())
    tiles._emit_tile_of(variant, Emitter(builder), *function.args)
    builder.ret_void()
    parsed = llvm.parse_assembly(str(module))
    passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(3))
    passes.getModulePassManager().run(parsed, passes)  # as numba does: this is what adds sums up in another order
    blocks = re.split(r"\n(?=\.LBB)", machine.emit_assembly(parsed))
    return max(blocks, key=lambda block: block.count(dot))


@pytest.mark.parametrize("block", [16, 32])
@pytest.mark.parametrize(
    ("name", "cpu", "features", "dot", "kept"),
    [
        ("avx2", "haswell", "+avx2,+fma", "vpmaddubsw", 12),  # once a block: six accumulators, out and in
        ("avxvnni", "alderlake", "+avx2,+fma,+avxvnni", "vpdpbusd", 0),
    ],
)
def test_the_loop_has_registers_enough(name: str, cpu: str, features: str, dot: str, kept: int, block: int) -> None:
    text = main_loop(Variant(name, block), cpu, features, dot)
    assert text.count(dot) == block // 4 * 6  # three rows, two vectors of columns
    through_memory = [line for line in text.splitlines() if "(%rsp)" in line and "ymm" in line]
    assert len(through_memory) <= kept
