"""What is kept so that it is not computed twice: weights laid out for computing, and activations as operands."""

from __future__ import annotations

import dataclasses
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..formats import PackedTensor


class DecodeCache:
    """Laid-out weights by card and way of computing, each with the version it was made from; bounded in bytes.

    An entry is good for exactly one version of its parameter: asking with another one is a miss. When the bound is
    passed, the entries that were not used for longest go first. A single entry larger than the bound is not kept.

    Parameters
    ----------
    capacity : int
        Bytes.
    """

    def __init__(self, capacity: int = 1 << 30) -> None:
        if capacity < 0:
            raise ValueError(f"the decode cache's capacity is a number of bytes, not {capacity}")
        self.capacity = capacity
        self.bytes = 0
        self.evictions = 0
        self._entries: OrderedDict[Hashable, tuple[Hashable, Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, version: Hashable) -> Any | None:
        """What was kept for `key` at `version`, or None."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or entry[0] != version:
                return None
            self._entries.move_to_end(key)
            return entry[1]

    def put(self, key: Hashable, version: Hashable, value: Any, nbytes: int) -> None:
        """Keep `value`, replacing what `key` had, and evict what no longer fits."""
        with self._lock:
            self._drop(key)
            if nbytes > self.capacity:
                return
            self._entries[key] = (version, value, nbytes)
            self.bytes += nbytes
            while self.bytes > self.capacity:
                self._drop(next(iter(self._entries)))
                self.evictions += 1

    def drop(self, owner: Hashable) -> None:
        """Forget what was kept for the key `owner`, and for every key that is a tuple beginning with it."""
        with self._lock:
            for key in list(self._entries):
                if key == owner or (isinstance(key, tuple) and key[0] == owner):
                    self._drop(key)

    def _drop(self, key: Hashable) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.bytes -= entry[2]

    def __len__(self) -> int:
        return len(self._entries)


class OperandCache:
    """Activations as operands: an array that several layers read (query, key and value; all experts) is rounded once.

    An entry is good for one array object, as long as that lives. So it is only for arrays that nobody writes to: those
    that a recorded operation made. Operands that are rounded stochastically are never shared: their draws are to be
    independent.

    Parameters
    ----------
    size : int
        Operands kept; the ones that were not used for longest go first.
    """

    def __init__(self, size: int = 8) -> None:
        self.size = size
        self._entries: OrderedDict[Hashable, tuple[weakref.ref[NDArray], Any]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, x: NDArray, kind: Hashable, make: Callable[[], Any]) -> Any:
        """The operand of `kind` of the array `x`, kept or made now."""
        key = id(x), kind
        with self._lock:
            array, operand = self._entries.get(key, (None, None))
            if array is not None and array() is x:
                self._entries.move_to_end(key)
                return operand
        operand = make()
        with self._lock:
            self._entries[key] = weakref.ref(x), operand
            self._entries.move_to_end(key)
            while len(self._entries) > self.size:
                self._entries.popitem(last=False)
        return operand


def held_bytes(packed: PackedTensor) -> int:
    """Bytes of all arrays of a packed weight, as they lie in memory.

    More than `packed.nbytes` where only some planes of a fine tier are used: those travel as bit planes, but lie in
    nibbles.
    """
    values = (getattr(packed, field.name) for field in dataclasses.fields(packed))
    arrays = {id(value): value for value in values if isinstance(value, np.ndarray | np.generic)}  # each one once
    return sum(array.nbytes for array in arrays.values())
