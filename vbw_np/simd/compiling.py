"""How functions become machine code: each once.

Left to itself, numba optimizes every function by itself and turns it into machine code, and does both again in each
caller that it is linked into; the body of a parallel loop passes through three more such levels, and through passes
that look for parallelism where none is wanted. So a deep helper is compiled five times and more, for the one copy that
runs. Here a function that compiled code calls is a *part*: LLVM IR that is linked into its callers as numba wrote it.
Only a *kernel*, which Python calls, is optimized, with all its parts at once, and turned into machine code. And a loop
that threads share is a part that is called once a thread, through numba's threading layer (`run_team`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

from llvmlite import ir
from numba import _dynfunc, types
from numba.core import cgutils
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import PassManager, register_pass
from numba.core.environment import lookup_environment
from numba.core.registry import CPUDispatcher
from numba.core.typed_passes import NativeLowering
from numba.extending import intrinsic
from numba.np.ufunc.parallel import _launch_threads as launch_threads

from .intrinsics import I8, I32, I64

# ------------------------------------------------------------------------------------------------- parts and kernels


class PartLibrary(JITCodeLibrary):
    """The LLVM IR of a part with all that it calls, neither optimized nor turned into machine code."""

    def finalize(self) -> None:
        """Link, and nothing else."""
        self._raise_if_finalized()
        for library in dict.fromkeys(self._linking_libraries):
            self._reload_init.update(library._reload_init)
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)
class PartLowering(NativeLowering):
    """Lower a function into a `PartLibrary`."""

    _name = "vbw_part_lowering"

    def run_pass(self, state) -> bool:  # type: ignore[no-untyped-def]
        """As numba's pass; instead of an entry point there is an object that stands for the function."""
        state.library = PartLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        super().run_pass(state)
        state.library._ensure_finalized()
        descriptor, result = state.cr.fndesc, state.cr
        stands_for = _dynfunc.make_function(
            descriptor.lookup_module(), descriptor.qualname, "a part", 0, result.env, (state.library,)
        )
        state.targetctx.insert_user_function(stands_for, descriptor, [state.library])
        state.cr = result._replace(cfunc=stands_for)
        return True


@register_pass(mutates_CFG=True, analysis_only=False)
class KernelLowering(NativeLowering):
    """Lower a function, and make known the environments of the parts in it."""

    _name = "vbw_kernel_lowering"

    def run_pass(self, state) -> bool:  # type: ignore[no-untyped-def]
        """As numba's pass."""
        super().run_pass(state)
        for variable in state.library._final_module.global_variables:
            environment = lookup_environment(variable.name)
            if environment is not None:
                state.library.codegen.set_env(variable.name, environment)
        return True


class _Compiler(CompilerBase):
    lowering: type

    def define_pipelines(self) -> list[PassManager]:
        """numba's passes, with `lowering` for its own."""
        passes = PassManager("vbw")
        for each, text in DefaultPassBuilder.define_nopython_pipeline(self.state).passes:
            passes.add_pass(self.lowering if each is NativeLowering else each, text)
        passes.finalize()
        return [passes]


class PartCompiler(_Compiler):
    """Compiles parts."""

    lowering = PartLowering


class KernelCompiler(_Compiler):
    """Compiles kernels."""

    lowering = KernelLowering


def part(function: Callable, **options: object) -> CPUDispatcher:
    """A function that compiled code alone calls."""
    targetoptions = {"nopython": True, "no_cpython_wrapper": True, **options}
    return CPUDispatcher(function, targetoptions=targetoptions, pipeline_class=PartCompiler)


class Kernel(CPUDispatcher):
    """A function that Python calls; where compiled code calls it, it is a part."""

    def __init__(self, function: Callable, **options: object) -> None:
        targetoptions = {"nopython": True, **options}
        super().__init__(function, targetoptions=targetoptions, pipeline_class=KernelCompiler)
        self.part = part(function, **options)

    @property
    def _numba_type_(self) -> types.Type:
        return self.part._numba_type_


# ------------------------------------------------------------------------------------------- loops that threads share


@intrinsic
def run_team(typingctx, body, args):  # type: ignore[no-untyped-def]
    """body((thread, threads), *args) on every thread of numba's threading layer."""
    team = types.UniTuple(types.int64, 2)
    signature = body.get_call_type(typingctx, (team, *args.types), {})

    def codegen(context, builder, sig, given):  # type: ignore[no-untyped-def]
        launch_threads()  # which tells LLVM where the threading layer's functions are
        context.active_code_library._reload_init.add(launch_threads)  # also where the kernel comes from the disk
        compiled = body.dispatcher.overloads[tuple(signature.args)]
        context.active_code_library.add_linking_library(compiled.library)
        values = cgutils.unpack_tuple(builder, given[1], len(args.types))
        record_type = ir.LiteralStructType([I32, I64, *(value.type for value in values)])
        record = cgutils.alloca_once(builder, record_type)
        count = builder.sext(_call(builder, I32, "get_num_threads"), I64)
        for place, value in enumerate([I32(0), count, *values]):
            builder.store(value, cgutils.gep_inbounds(builder, record, 0, place))
        worker = _worker(context, builder.module, compiled.fndesc, signature, record_type)
        _parallel_for(builder, worker, count, record)
        failed = builder.load(cgutils.gep_inbounds(builder, record, 0, 0))
        with cgutils.if_unlikely(builder, cgutils.is_not_null(builder, failed)):
            context.call_conv.return_user_exc(builder, MemoryError, ("a thread of a kernel could not go on",))
        return context.get_dummy_value()

    return types.void(body, args), codegen


def _call(builder: ir.IRBuilder, returns: ir.Type, name: str, *values: ir.Value) -> ir.Value:
    kind = ir.FunctionType(returns, [value.type for value in values])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), values)


def _parallel_for(builder: ir.IRBuilder, worker: ir.Function, count: ir.Value, record: ir.Value) -> None:
    """numba's `parallel_for`: worker(args, counts, steps, record) for stretches of 0 ... count - 1.

    It adds up addresses: an argument at address 0 in steps of 1 is the number itself.
    """
    void = I8.as_pointer()

    def place(value: ir.Value) -> ir.Value:
        kept = cgutils.alloca_once_value(builder, value)
        return builder.bitcast(kept, void)

    numbers = place(ir.Constant(void, None)), place(count), place(I64(1))
    pointers = builder.bitcast(worker, void), *numbers, builder.bitcast(record, void)
    _call(builder, ir.VoidType(), "numba_parallel_for", *pointers, I64(0), I64(1), count)


def _worker(context, module: ir.Module, descriptor, signature, record_type: ir.Type) -> ir.Function:  # type: ignore[no-untyped-def]
    """What the threading layer calls: the body for some threads, with the arguments in the record."""
    void, numbers = I8.as_pointer(), I64.as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [void.as_pointer(), numbers, numbers, void])
    worker = ir.Function(module, kind, module.get_unique_name(f"{descriptor.mangled_name}.worker"))
    worker.linkage = "internal"
    builder = ir.IRBuilder(worker.append_basic_block())
    args, counts, _, data = worker.args
    first = builder.ptrtoint(builder.load(args), I64)
    record = builder.bitcast(data, record_type.as_pointer())
    places = [cgutils.gep_inbounds(builder, record, 0, i) for i in range(len(record_type.elements))]
    threads, *values = (builder.load(place) for place in places[1:])
    values = [_lent(context, builder, each, value) for each, value in zip(signature.args[1:], values, strict=True)]
    with cgutils.for_range(builder, builder.load(counts)) as loop:
        team = cgutils.pack_array(builder, [builder.add(first, loop.index), threads])
        status, _ = context.call_internal_no_propagate(builder, descriptor, signature, [team, *values])
        with cgutils.if_unlikely(builder, status.is_error):
            builder.store(I32(1), places[0])
    builder.ret_void()
    return worker


def _lent(context, builder: ir.IRBuilder, kind: types.Type, value: ir.Value) -> ir.Value:  # type: ignore[no-untyped-def]
    """An argument without what its references are counted in: the kernel's caller holds it while the threads run.

    Else every thread would count the references of every row that it names, and all of them in one place: two threads
    then wait for each other several times a row. What is known not to be counted costs no instruction.
    """
    if isinstance(kind, types.Array):
        array = context.make_array(kind)(context, builder, value)
        for member in ("meminfo", "parent"):
            setattr(array, member, cgutils.get_null_value(getattr(array, member).type))
        return array._getvalue()
    if isinstance(kind, types.BaseTuple):
        parts = zip(kind.types, cgutils.unpack_tuple(builder, value, len(kind)), strict=True)
        return context.make_tuple(builder, kind, [_lent(context, builder, *part) for part in parts])
    return value


def team_kernel(function: Callable, **options: object) -> Kernel:
    """`function(team, ...)` as a kernel of its other arguments, which every thread runs."""
    name, names = function.__name__, list(inspect.signature(function).parameters)[1:]
    body = part(function, forceinline=True, **options)  # into what threads call, which lends it its arrays: see `_lent`
    namespace = {"body": body, "run_team": run_team, "__name__": function.__module__}
    listed = ", ".join(names)
    source = f"def {name}({listed}):\n    run_team(body, ({listed},))\n"
    exec(compile(source, f"<team of {function.__module__}.{name}>", "exec"), namespace)
    made = namespace[name]
    made.__qualname__, made.__doc__ = function.__qualname__, function.__doc__
    kernel = Kernel(made, **options)
    kernel.function = function
    return kernel
