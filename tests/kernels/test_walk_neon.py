"""The ARM kernels cannot run on other machines, but its code must compile for one, and use the dot product there."""

from __future__ import annotations

import llvmlite.binding as llvm
import pytest
from llvmlite import ir

from vbw_np.kernels.fp4 import intrinsics_matvec as matvec
from vbw_np.kernels.fp4 import intrinsics_tile as tiles
from vbw_np.kernels.fp32 import intrinsics_fp32 as fp32
from vbw_np.simd.intrinsics import I64, Emitter
from vbw_np.simd.variant import Variant

TRIPLE = "aarch64-unknown-linux-gnu"


def assembly(n_arguments: int, emit, features: str) -> str:  # type: ignore[no-untyped-def]
    """Compile one code generator for a 64-bit ARM machine."""
    try:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
        target = llvm.Target.from_triple(TRIPLE)
    except RuntimeError:
        pytest.skip("this LLVM has no ARM target")
    machine = target.create_target_machine(cpu="generic", features=features, opt=3)
    module = ir.Module("kernel")
    module.triple = TRIPLE
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * n_arguments), "kernel")
    builder = ir.IRBuilder(function.append_basic_block())
    emit(Emitter(builder), *function.args)
    builder.ret_void()
    return machine.emit_assembly(llvm.parse_assembly(str(module)))


@pytest.mark.parametrize("block", [16, 32])
def test_the_neon_loops_compile_to_dot_products(block: int) -> None:
    variant = Variant("neon", block)
    text = assembly(len(tiles.TILE_ARGUMENTS), lambda e, *a: tiles._emit_tile_of(variant, e, *a), "+neon,+dotprod")
    assert text.count("sdot") == block * 4  # block / 4 groups, 4 rows, 4 vectors of columns
    assert "\tbl\t" not in text  # no calls: everything stayed in registers
    text = assembly(3, lambda e, *a: tiles._emit_decode_of(variant, e, *a), "+neon,+dotprod")
    assert text.count("tbl\t") == 8
    for rows, loops in ((8, 1), (1, 2)):  # one row has a short loop and a full one
        few = Variant(f"neon+nvfp4+{rows}", block)
        text = assembly(11, lambda e, *a, few=few: matvec._emit_matvec_of(few, e, *a), "+neon,+dotprod")
        assert text.count("sdot") == block * rows * loops


@pytest.mark.parametrize("packed", [False, True])
def test_the_float32_product_compiles_to_fused_multiply_adds(packed: bool) -> None:
    text = assembly(8, lambda e, *a: fp32.emit_tile(fp32.TILES["neon"], packed)(e, *a), "+neon")
    assert text.count("fmla") == 6 * 4 * (fp32.UNROLL + 1)  # the unrolled terms, and those that are left
    assert "\tbl\t" not in text


@pytest.mark.parametrize("block", [16, 32])
def test_the_portable_loops_compile_without_extensions(block: int) -> None:
    variant = Variant("portable", block)
    text = assembly(len(tiles.TILE_ARGUMENTS), lambda e, *a: tiles._emit_tile_of(variant, e, *a), "+neon")
    assert "sdot" not in text and "\tbl\t" not in text
