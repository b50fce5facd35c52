"""Modules: parameters, buffers and other modules by name, with PyTorch's state-dict names."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..parameter import Parameter
from ..tensor import Tensor


class Buffer:
    """An array that belongs to a module's state and is not trained; modules may share one."""

    __slots__ = ("data",)

    def __init__(self, data: Any) -> None:
        self.data = np.array(data)

    def __repr__(self) -> str:
        return f"Buffer({self.data!r})"


class Module:
    """Base of all layers and models.

    Parameters, buffers and modules that are assigned as attributes are found by name, in the order of assignment.
    Subclasses define `forward`; calling the module runs it.
    """

    training: bool = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    # -- what it is made of

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Parameter) and not value.name:
            value.name = f"{type(self).__name__}.{name}"
        object.__setattr__(self, name, value)

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Modules that are attributes of this one.

        Raises
        ------
        TypeError
            One stands in a plain list, tuple or dict, where its parameters would be forgotten.
        """
        for name, value in self.__dict__.items():
            if isinstance(value, Module):
                yield name, value
            elif isinstance(value, list | tuple | dict | set | frozenset):
                held = next((part for part in _parts(value) if isinstance(part, Module | Parameter | Buffer)), None)
                if held is not None:
                    raise TypeError(
                        f"{type(self).__name__}.{name} is a plain {type(value).__name__} that holds a "
                        f"{type(held).__name__}, which would never be trained, saved or placed; use nn.ModuleList, or "
                        "one attribute each"
                    )

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module and all below it, depth first, with dotted names."""
        yield prefix, self
        for name, child in self.named_children():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def modules(self) -> Iterator[Module]:
        return (module for _, module in self.named_modules())

    def _named(self, kind: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
        """Values of a kind under every name they have, module by module."""
        for path, module in self.named_modules(prefix):
            for name, value in module.__dict__.items():
                if isinstance(value, kind):
                    yield (f"{path}.{name}" if path else name), value

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """Every parameter once, under its first name."""
        seen: set[int] = set()
        for name, value in self._named(Parameter, prefix):
            if id(value) not in seen:
                seen.add(id(value))
                yield name, value

    def parameters(self) -> Iterator[Parameter]:
        return (parameter for _, parameter in self.named_parameters())

    def num_parameters(self) -> int:
        """Trained numbers in this module and below."""
        return sum(parameter.size for parameter in self.parameters())

    # -- switches

    def train(self, mode: bool = True) -> Module:
        """Training behavior (dropout) on or off, here and below."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Module:
        """Training behavior off."""
        return self.train(False)

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Training behavior off inside the context, and afterwards as it was, module by module."""
        before = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            yield
        finally:
            for module, mode in before:
                module.training = mode

    def zero_grad(self) -> None:
        for parameter in self.parameters():
            parameter.grad = None

    # -- state

    def state_dict(self) -> dict[str, NDArray]:
        """All values by name, parameters and buffers, module by module; the arrays are shared, not copied."""
        return {name: value.data for name, value in self._named(Parameter | Buffer)}

    def load_state_dict(self, state: Mapping[str, NDArray]) -> None:
        """Set all values by name; every key and shape is checked first, and nothing changes if one is wrong.

        Raises
        ------
        ValueError
            Names all missing, unexpected and misshapen keys at once.
        """
        slots = dict(self._named(Parameter | Buffer))
        problems = []
        if missing := [key for key in slots if key not in state]:
            problems.append(f"missing: {_listed(missing)}")
        if extra := [key for key in state if key not in slots]:
            problems.append(f"unexpected: {_listed(extra)}")
        wrong = [
            f"{key} {np.shape(state[key])} for {slot.data.shape}"
            for key, slot in slots.items()
            if key in state and np.shape(state[key]) != slot.data.shape
        ]
        if wrong:
            problems.append(f"wrong shape: {_listed(wrong)}")
        if problems:
            raise ValueError(f"this state dict is not for this {type(self).__name__}; " + "; ".join(problems))
        for key, slot in slots.items():
            if isinstance(slot, Parameter):
                slot.assign(state[key])
            else:
                slot.data[...] = state[key]

    # -- for people

    def __repr__(self) -> str:
        lines = [f"({name}): {child!r}".replace("\n", "\n  ") for name, child in self.named_children()]
        body = "\n  " + "\n  ".join(lines) + "\n" if lines else self.extra_repr()
        return f"{type(self).__name__}({body})"

    def extra_repr(self) -> str:
        """What stands between the brackets of a module without children."""
        return ""


def _parts(container: Iterable) -> Iterator[Any]:
    """What stands in a container, and in the containers in it."""
    for part in container.values() if isinstance(container, dict) else container:
        if isinstance(part, list | tuple | dict | set | frozenset):
            yield from _parts(part)
        else:
            yield part


def _listed(names: list[str], most: int = 20) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


class ModuleList(Module):
    """Modules by number: ``blocks.0``, ``blocks.1`` ..."""

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        self._length = 0
        for module in modules:
            self.append(module)

    def append(self, module: Module) -> None:
        setattr(self, str(self._length), module)
        self._length += 1

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Module]:
        return (getattr(self, str(index)) for index in range(self._length))

    def __getitem__(self, index: int) -> Module:
        if not -self._length <= index < self._length:
            raise IndexError(f"module {index} of {self._length}")
        return getattr(self, str(index % self._length))


class Sequential(ModuleList):
    """Modules one after the other."""

    def __init__(self, *modules: Module) -> None:
        super().__init__(modules)

    def forward(self, x: Tensor) -> Tensor:
        for module in self:
            x = module(x)
        return x
