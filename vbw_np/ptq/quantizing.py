"""A model quantized by a method: block by block, while a text flows through it."""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from .. import kernels as _twins  # noqa: F401  of the definitions
from ..definitions import dequantize, quantize
from ..engine import Tensor, nn, no_grad
from ..formats import BlockFormat, FittedScales, PackedTensor, encode, relative_mse
from ..models.llama import Llama, LlamaBlock
from .calibration import KeptMoments, Moments, check_windows, spread, watch, wrapped
from .channel_scales import awq_factors, output_error, smoothquant_factors
from .errors import CalibrationError
from .fitting import Fitter, check_choices, check_columns, fits_by_block
from .gptq import gptq, gptq_in_order
from .methods import Awq, Clip, Gptq, Method, Rotate, SmoothQuant
from .rotation import Rotation
from .sites import SITES, Site, blocks_of, fold_scale, fold_stream, linears_of, part, shared_channels

PIECE = 2048
"""Tokens that pass through a block at a time while calibrating."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What becomes of a model: a format for weights, a method, and maybe a format for activations.

    Attributes
    ----------
    fmt : BlockFormat
        Of the weights, before the method has its say (`Method.format_of`).
    method : Method
    activations : BlockFormat or None
        Of the inputs of every layer that is quantized; None leaves them in float32.
    keep : tuple of str, or str
        Name patterns of layers that stay as they are.
    keys, values : BlockFormat or None
        Of what the model keeps of the tokens that it has read; None leaves them in float32.
    """

    fmt: BlockFormat
    method: Method
    activations: BlockFormat | None = None
    keep: tuple[str, ...] = ()
    keys: BlockFormat | None = None
    values: BlockFormat | None = None

    def __post_init__(self) -> None:
        if isinstance(self.keep, str):  # as a tuple it would be one pattern a letter
            object.__setattr__(self, "keep", (self.keep,))

    @property
    def weights(self) -> BlockFormat:
        """The format that weights are rounded to."""
        return self.method.format_of(self.fmt)

    def check(self) -> None:
        """Refuse, before any work, what cannot be done with these formats.

        Raises
        ------
        UserError
        """
        if self.method.find(Gptq) is not None:
            check_columns(self.weights)
        clip = self.method.find(Clip)
        if clip is not None:
            check_choices(self.weights)
            if clip.activations and self.activations is not None:
                check_choices(self.activations)
        _ = self.weights

    def keeps(self, name: str) -> bool:
        """Whether a layer stays as it is."""
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.keep)


@dataclasses.dataclass(frozen=True)
class LayerError:
    """What one layer lost.

    Attributes
    ----------
    name : str
    weight : float
        Relative squared error of the weight, as it was when it was rounded (scaled, rotated).
    output : float or None
        Of the layer's output on the calibration text, its inputs in float32; None without one.
    """

    name: str
    weight: float
    output: float | None


@dataclasses.dataclass
class Quantized:
    """A model whose weights are quantized, and how it is run.

    Attributes
    ----------
    model : Llama
        The one that was given; its parameters hold decoded values.
    plan : Plan
    packed : dict of str to PackedTensor
        The weights' codes and scales, by layer.
    rotations : dict of str to Rotation
        What the inputs of layers go through while the model runs.
    errors : list of LayerError
    """

    model: Llama
    plan: Plan
    packed: dict[str, PackedTensor] = dataclasses.field(default_factory=dict)
    rotations: dict[str, Rotation] = dataclasses.field(default_factory=dict)
    errors: list[LayerError] = dataclasses.field(default_factory=list)

    @property
    def linears(self) -> dict[str, nn.Linear]:
        """The linear layers of all blocks by name, quantized or not."""
        return linears_of(self.model)

    @property
    def bits(self) -> float:
        """Bits a quantized weight, everything counted."""
        total = sum(packed.size for packed in self.packed.values())
        return 8 * sum(packed.nbytes for packed in self.packed.values()) / total if total else 32.0

    @contextlib.contextmanager
    def running(self, prefix: str = "") -> Iterator[None]:
        """While inside, layers (whose names begin so) see what they would: rotated and quantized inputs."""
        layers = {n: layer for n, layer in linears_of(self.model).items() if n in self.packed and n.startswith(prefix)}
        if self.plan.activations is None:
            layers = {name: layer for name, layer in layers.items() if name in self.rotations}
        last: list[tuple[Tensor, Rotation | None, Tensor]] = []

        def change(name: str, x: Tensor) -> Tensor:
            rotation = self.rotations.get(name)
            if last and last[0][0] is x and last[0][1] is rotation:  # layers of a site share it
                return last[0][2]
            changed = Tensor(self._inputs(x.data, rotation))
            last[:] = [(x, rotation, changed)]
            return changed

        with wrapped(layers, change):
            yield

    def _inputs(self, x: NDArray, rotation: Rotation | None) -> NDArray:
        x = x if rotation is None else rotation(x)
        fmt = self.plan.activations
        if fmt is None:
            return x
        rows = np.ascontiguousarray(x.reshape(-1, x.shape[-1]))
        clip = self.plan.method.find(Clip)
        if clip is None or not clip.activations:
            return dequantize(quantize(rows, fmt)).reshape(x.shape)
        scales = Fitter.of(rows, fmt, clip.factors)(rows)
        return dequantize(quantize(rows, fmt, reuse=scales)).reshape(x.shape)


class Stream:
    """A text on its way through the blocks of a model: what flows into the next one."""

    def __init__(self, model: Llama, windows: NDArray) -> None:
        self._tables = model.model.tables(0, windows.shape[1])
        self.pieces = [model.model.embed_tokens(piece).data for piece in spread(windows, PIECE)]

    def through(self, block: LlamaBlock) -> list[NDArray]:
        """What comes out of a block."""
        return [block(Tensor(piece), self._tables).data for piece in self.pieces]

    def watch(self, block: LlamaBlock) -> tuple[dict[str, Moments], list[NDArray]]:
        """The moments of its inputs by site, and what comes out."""
        out: list[list[NDArray]] = []
        layers = {site.name: part(block, site.name) for site in SITES}
        moments = watch(layers, lambda: out.append(self.through(block)))
        return moments, out[0]


class Calibration:
    """The moments of all inputs of a model, from one reading; kept, so that several plans can use them.

    Parameters
    ----------
    windows : integers (n, length)
        Token ids.
    """

    def __init__(self, windows: NDArray) -> None:
        check_windows(windows)
        self.windows = windows
        self._kept: list[dict[str, KeptMoments]] = []

    def blocks(self, model: Llama, plan: Plan) -> Iterator[tuple[str, LlamaBlock, dict[str, Moments]]]:
        """Every block with the moments of its inputs; between two of them the first one is to be quantized."""
        rotate, rounding = plan.method.find(Rotate), plan.method.find(Gptq)
        sequential = rounding is not None and rounding.sequential
        as_it_was = not sequential and not (rotate and rotate.where == "stream")
        if as_it_was and self._kept:
            for (prefix, block), kept in zip(blocks_of(model), self._kept, strict=True):
                yield prefix, block, {site: each.moments() for site, each in kept.items()}
            return
        stream, reading = Stream(model, self.windows), []
        for prefix, block in blocks_of(model):
            moments, out = stream.watch(block)
            if as_it_was:
                reading.append({site: KeptMoments.of(each) for site, each in moments.items()})
            yield prefix, block, dict(moments)
            stream.pieces = stream.through(block) if sequential else out
        if as_it_was:
            self._kept = reading


def quantize_model(
    model: Llama,
    plan: Plan,
    calibration: Calibration | None = None,
    done: Callable[[str], None] = lambda name: None,
) -> Quantized:
    """Quantize the layers of all blocks of a model, in place.

    Parameters
    ----------
    model : Llama
        Of float32, without cards. Embedding and head stay as they are.
    plan : Plan
    calibration : Calibration, optional
        Without one there are no output errors, and only methods that need none.
    done : callable
        Told the name of each block when it is finished.

    Raises
    ------
    UserError
        The format does not go with the method, or a width with a rotation.
    CalibrationError
    """
    plan.check()
    if calibration is None and plan.method.needs_inputs:
        raise CalibrationError(f"the method {plan.method} learns from what flows into the layers; give a calibration")
    result = Quantized(model, plan)
    rotate = plan.method.find(Rotate)
    with model.evaluating(), no_grad():
        if rotate is not None and rotate.where == "stream":
            fold_stream(model, rotate.points, rotate.seed)
        if calibration is None:
            steps = ((prefix, block, {}) for prefix, block in blocks_of(model))
        else:
            steps = calibration.blocks(model, plan)
        running = contextlib.ExitStack()
        with running:
            for prefix, block, moments in steps:
                _quantize_block(prefix, block, moments, result)
                running.enter_context(result.running(prefix + "."))
                done(prefix)
    return result


def _quantize_block(prefix: str, block: LlamaBlock, moments: dict[str, Moments], result: Quantized) -> None:
    plan = result.plan
    for site in SITES:
        factors = _factors(block, site, moments.get(site.name), plan)
        if factors is not None:
            fold_scale(block, site, factors)
            moments[site.name] = moments[site.name].scaled(1 / factors)
    rotate = plan.method.find(Rotate)
    for site in SITES:
        seen = moments.get(site.name)
        chosen = {f"{prefix}.{name}": part(block, name) for name in site.layers}
        chosen = {name: layer for name, layer in chosen.items() if not plan.keeps(name)}
        if rotate is not None and rotate.where == "inputs" and chosen:
            rotation = Rotation.random(next(iter(chosen.values())).in_features, rotate.points, rotate.seed)
            seen = seen and seen.turned(rotation)
            for name, layer in chosen.items():
                result.rotations[name] = rotation
                layer.weight.assign(rotation(layer.weight.data))
        for name, layer in chosen.items():
            result.packed[name], error = _quantize_layer(layer, seen, plan)
            result.errors.append(dataclasses.replace(error, name=name))


def _factors(block: LlamaBlock, site: Site, moments: Moments | None, plan: Plan) -> NDArray | None:
    """The scales of a site's channels, or None if the method has no such step."""
    step = plan.method.find(Awq) or plan.method.find(SmoothQuant)
    if step is None:
        return None
    weights = [part(block, name).weight.data for name in site.layers]

    def shared(values: NDArray) -> NDArray:
        return shared_channels(block, site, values, np.mean)

    if isinstance(step, SmoothQuant):
        return shared(smoothquant_factors(weights, moments, step.alpha))
    fmt = plan.weights
    return awq_factors(weights, moments, step.alphas, lambda w: dequantize(quantize(w, fmt)), shared)


def _quantize_layer(layer: nn.Linear, moments: Moments | None, plan: Plan) -> tuple[PackedTensor, LayerError]:
    """Round one weight, in place; its codes, and what it lost."""
    weight, fmt = layer.weight.data.copy(), plan.weights
    clip, rounding = plan.method.find(Clip), plan.method.find(Gptq)
    factors = clip.factors if clip else (1.0,)
    importance = moments.mean_squares if clip and clip.by == "hessian" and moments else None
    fitter = Fitter.of(weight, fmt, factors, importance)
    if rounding is None:
        packed = _nearest(weight, fmt, fitter)
    else:
        packed = _by_gptq(weight, moments, fmt, fitter, rounding)
    values = dequantize(packed)
    layer.weight.assign(values)
    output = None
    if moments is not None:
        signal = output_error(weight, moments.hessian)
        output = output_error(values - weight, moments.hessian) / signal if signal else 0.0
    return packed, LayerError("", relative_mse(weight, values), output)


def _nearest(weight: NDArray, fmt: BlockFormat, fitter: Fitter) -> PackedTensor:
    if len(fitter.factors) == 1:
        return quantize(weight, fmt)
    return quantize(weight, fmt, reuse=fitter(weight))


def _by_gptq(weight: NDArray, moments: Moments, fmt: BlockFormat, fitter: Fitter, rounding: Gptq) -> PackedTensor:
    """GPTQ; the codes are the encoder's for the values that were chosen."""
    scales: FittedScales
    if rounding.scales == "group" and fits_by_block(fmt):
        values, scales = gptq(weight, moments.hessian, fmt, fitter, damping=rounding.damping)
    else:
        scales = fitter(weight)
        order = np.arange(weight.shape[1])
        if rounding.order == "activation":
            order = np.argsort(-moments.mean_squares, kind="stable")
        values = gptq_in_order(weight, moments.hessian, fmt, scales, order, damping=rounding.damping)
    return encode(values, fmt, scales, measure=False)
