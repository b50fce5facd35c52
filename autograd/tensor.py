"""The tensor: a NumPy array that may remember how it was made.

First order only: gradients are NumPy arrays, not tensors, so they cannot be differentiated again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .memory import copied, is_whole_pooled, pooled
from .tape import Node, run_backward

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def as_float_array(data: ArrayLike, dtype: DTypeLike | None = None) -> NDArray:
    """`data` as a float32 or float64 array: float arrays keep their precision, Python numbers become float32."""
    if dtype is None:
        dtype = data.dtype if isinstance(data, np.ndarray | np.generic) and data.dtype in FLOATS else np.float32
    if np.dtype(dtype) not in FLOATS:
        raise TypeError(f"a tensor holds float32 or float64, not {np.dtype(dtype)}; pass integers as NumPy arrays")
    array = np.asarray(data)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"a tensor holds real numbers, not {array.dtype}")
    return np.asarray(array, dtype)


class Tensor:
    """A NumPy array that remembers how it was made.

    Parameters
    ----------
    data : array_like
        Numbers of any shape; float32 and float64 arrays are kept as they are (not copied), everything else becomes
        float32 unless `dtype` says otherwise.
    requires_grad : bool
        Whether `backward` shall leave this tensor's gradient in `grad`.
    dtype : float32 or float64, optional

    Attributes
    ----------
    data : ndarray
        The values.
    grad : ndarray or None
        After `backward`, the gradient, same shape and dtype as `data`. Leaves only; gradients add up over calls.
    base : Parameter or None
        The parameter whose memory these values share, where they are a slice or a transpose of one.

    Examples
    --------
    >>> x = Tensor([3.0], requires_grad=True)
    >>> (x * x).backward()
    >>> float(x.grad[0])
    6.0
    """

    __slots__ = ("__weakref__", "base", "data", "grad", "node", "requires_grad")

    def __init__(self, data: ArrayLike, requires_grad: bool = False, *, dtype: DTypeLike | None = None) -> None:
        if isinstance(data, Tensor):
            raise TypeError("this is a tensor already; use .detach() for one that shares its values")
        self.data: NDArray = as_float_array(data, dtype)
        self.grad: NDArray | None = None
        self.requires_grad = requires_grad
        self.node: Node | None = None
        self.base: Any = None

    # -- what it is

    shape: property = property(lambda self: self.data.shape, doc="Lengths of the axes.")
    ndim: property = property(lambda self: self.data.ndim, doc="Number of axes.")
    size: property = property(lambda self: self.data.size, doc="Number of elements.")
    dtype: property = property(lambda self: self.data.dtype, doc="float32 or float64.")

    @property
    def is_leaf(self) -> bool:
        """Whether no recorded operation made this tensor."""
        return self.node is None

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a tensor without axes has no length")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        if not self.shape:
            raise TypeError("a tensor without axes cannot be iterated over; .item() is its value")
        return (self[index] for index in range(len(self)))

    def __reduce__(self) -> tuple:
        if self.node is not None:
            made = self.node.primitive.name
            raise RuntimeError(f"a tensor made by {made} is not copied or pickled with its graph; take .detach() of it")
        return type(self), (self.data,), (None, {"requires_grad": self.requires_grad, "grad": self.grad})  # on no host

    def __bool__(self) -> bool:
        return bool(self.data)

    def __float__(self) -> float:
        return self.item()

    def __int__(self) -> int:
        return int(self.item())

    def __repr__(self) -> str:
        made = f", made by {self.node.primitive.name}" if self.node is not None else ""
        leaf = ", requires_grad=True" if self.requires_grad and self.node is None else ""
        values = np.array2string(self.data, precision=4, threshold=24, edgeitems=2, separator=", ", prefix="Tensor(")
        return f"Tensor({values}, shape={self.shape}, {self.dtype}{made}{leaf})"

    # -- its values

    def numpy(self) -> NDArray:
        """The values, shared, not copied."""
        return self.data

    def item(self) -> float:
        """The value of a tensor with one element, as a Python float."""
        if self.size != 1:
            raise ValueError(f"item() is for a tensor of one element; this one has shape {self.shape}")
        return float(self.data.reshape(()))

    def detach(self) -> Tensor:
        """A tensor with the same values (shared) and no history."""
        return Tensor(self.data)

    # -- its gradient

    def accumulate_grad(self, gradient: NDArray) -> None:
        """Add to `grad`: what `backward` does at a leaf."""
        if self.grad is None:
            # Some vjps hand out a view of what another tensor keeps, or a read-only broadcast: own what is stored.
            own = gradient.base is None and gradient.flags.writeable and gradient.flags.c_contiguous
            self.grad = gradient if own or is_whole_pooled(gradient) else copied(gradient)
        else:
            self.grad = pooled(np.add, self.grad, gradient)

    def zero_grad(self) -> None:
        """Forget the gradient."""
        self.grad = None

    def backward(self, gradient: ArrayLike | None = None) -> None:
        """Compute the gradient of this tensor in every leaf that requires one, and free the graph.

        Parameters
        ----------
        gradient : array_like, optional
            The gradient to start from, of this tensor's shape; 1 for a tensor of one element.

        Raises
        ------
        RuntimeError
            Nothing here requires a gradient, or the graph was walked before.
        ValueError
            `gradient` is missing for a tensor of several elements, or has another shape.
        """
        if not self.requires_grad:
            raise RuntimeError("backward: nothing that made this tensor requires a gradient")
        if gradient is None:
            if self.size != 1:
                raise ValueError(f"backward from shape {self.shape} needs a gradient of that shape")
            gradient = 1.0
        seed = np.asarray(gradient, self.dtype)
        if seed.shape not in ((), self.shape):
            raise ValueError(f"backward: the gradient has shape {seed.shape}, the tensor {self.shape}")
        seed = np.broadcast_to(seed, self.shape)
        if self.node is None:
            self.accumulate_grad(seed)
        else:
            run_backward(self.node, seed)
