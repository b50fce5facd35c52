"""Keys and values of the tokens that were read, in float32 or in a block format, so that only new ones are computed."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .. import kernels as _twins  # noqa: F401  of the definitions
from ..definitions import dequantize, quantize
from ..errors import UserError
from ..formats import BlockFormat, FormatError, get_format

Format = str | BlockFormat | None


def format_of_vectors(fmt: Format, length: int) -> BlockFormat | None:
    """The format of single vectors of `length` numbers; a second-level scale is each vector's own.

    Raises
    ------
    UserError
        Vectors do not keep their values when others are rounded with them: what a cache held would depend on how its
        tokens came. Or the format is not known, or cannot be made of such vectors.
    """
    if fmt is None or fmt in ("float32", "fp32"):
        return None
    try:
        record = get_format(fmt)
        if record.tensor_level == "tensor" and record.block_rows == 1:
            record = dataclasses.replace(record, tensor_level="row")
        drawn = np.random.default_rng(0).normal(size=(5, length)) * 10.0 ** np.arange(-2, 3)[:, None]
        drawn = drawn.astype(np.float32)
        together = quantize(drawn, record).dequantize()
        alone = np.concatenate([quantize(row[None], record).dequantize() for row in drawn])
    except FormatError as error:
        raise UserError(f"keys and values cannot be kept as {getattr(fmt, 'name', fmt)}: {error}") from None
    if not np.array_equal(together, alone):
        raise UserError(
            f"keys and values cannot be kept as {record.name}: its scales or codes span several vectors, so that what "
            "is kept would depend on how the tokens came; take one whose blocks lie within a vector, such as nvfp4"
        )
    return record


class KeyValueCache:
    """Keys and values of the tokens that were read, layer by layer; room for all of them is made at once.

    A format rounds each head's vector by itself, keys after their positions were turned. What it leaves of a vector is
    held decoded, since attention reads all of it at every token; `token_nbytes` says what the packed vectors take.

    Parameters
    ----------
    layers, batch, groups, capacity, head_dim : int
        Up to `capacity` tokens of `batch` sequences; G heads of d numbers a layer.
    dtype : float32 or float64
        Of what is kept without a format.
    keys, values : str or BlockFormat, optional
        Apart, for they mind rounding differently; None keeps what comes.

    Attributes
    ----------
    length : int
        Tokens that are held.
    """

    def __init__(
        self,
        layers: int,
        batch: int,
        groups: int,
        capacity: int,
        head_dim: int,
        dtype: DTypeLike = np.float32,
        *,
        keys: Format = None,
        values: Format = None,
    ) -> None:
        self.capacity, self.length, self.batch = capacity, 0, batch
        self.formats = format_of_vectors(keys, head_dim), format_of_vectors(values, head_dim)
        self.arrays: Sequence[NDArray] = [np.zeros((layers, batch, groups, capacity, head_dim), dtype) for _ in "kv"]

    @property
    def token_nbytes(self) -> int:
        """Bytes that one token of one sequence takes, in all layers."""
        return sum(_packed_nbytes(array, fmt) for array, fmt in zip(self.arrays, self.formats))

    @property
    def nbytes(self) -> int:
        """Bytes that the tokens held now take."""
        return self.token_nbytes * self.batch * self.length

    @property
    def roundings(self) -> tuple[Callable[[NDArray], NDArray] | None, Callable[[NDArray], NDArray] | None]:
        """What becomes of keys and of values before they are kept; None: nothing."""
        keys, values = (None if fmt is None else functools.partial(_rounded, fmt=fmt) for fmt in self.formats)
        return keys, values

    def remember(self, layer: int, k: NDArray, v: NDArray) -> tuple[NDArray, NDArray]:
        """Keep a layer's keys and values of new tokens (B, G, T, d); give those of all tokens so far (B, G, S, d)."""
        stop = self.length + k.shape[2]
        for array, fmt, new in zip(self.arrays, self.formats, (k, v)):
            array[layer, :, :, self.length : stop] = new if fmt is None else _rounded(new, fmt)
        keys, values = (array[layer, :, :, :stop] for array in self.arrays)
        return keys, values

    def advance(self, count: int) -> None:
        """So many tokens have passed through all layers."""
        self.length += count


def _rounded(vectors: NDArray, fmt: BlockFormat) -> NDArray:
    rows = np.ascontiguousarray(vectors, np.float32).reshape(-1, vectors.shape[-1])
    return dequantize(quantize(rows, fmt)).reshape(vectors.shape)


def _packed_nbytes(array: NDArray, fmt: BlockFormat | None) -> int:
    layers, _, groups, _, head_dim = array.shape
    if fmt is None:
        return layers * groups * head_dim * array.itemsize
    return layers * quantize(np.ones((groups, head_dim), np.float32), fmt).nbytes
