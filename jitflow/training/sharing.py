"""Share a module's weights and evaluation mode between threads that sample from it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Values = Mapping[str, Tensor]


class _Unsaved:
    """Base of objects that are not copied or pickled with a module: copies get a new object."""

    def __reduce__(self) -> Any:
        return type(self), ()


class SharedWeights(_Unsaved):
    """Lock on the parameter values of a module: its own weights, or an average of them.

    Threads that use the same values share them. A thread that needs other values waits, first come first served, until
    no thread uses the present ones. A nested block with other values releases the outer ones meanwhile, so that two
    threads never deadlock.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        self._users = 0
        # Values that the parameters hold now; None for the module's own weights, which the list keeps otherwise.
        self._values: Values | None = None
        self._own: list[tuple[nn.Parameter, Tensor]] = []
        self._thread = threading.local()

    @contextmanager
    def use(self, module: nn.Module, values: Values | None) -> Iterator[None]:
        """Load values into the parameters inside the block.

        Args:
            module: The module, the same in every call.
            values: Values of parameters by name; None for the module's own weights. Nothing is copied if
                precision and device match.
        """
        nested = self._nested_values()
        if nested and nested[-1] is values:
            yield
            return
        if nested:
            self._release()
        try:
            self._acquire(module, values)
        except BaseException:
            if nested:
                self._acquire(module, nested[-1])
            raise
        nested.append(values)
        try:
            yield
        finally:
            nested.pop()
            self._release()
            if nested:
                self._acquire(module, nested[-1])

    @contextmanager
    def use_present(self, module: nn.Module) -> Iterator[None]:
        """Keep inside the block the values of this thread's outer block, or else the module's own weights."""
        nested = self._nested_values()
        with self.use(module, nested[-1] if nested else None):
            yield

    def _nested_values(self) -> list[Values | None]:
        """Return the values of this thread's nested blocks, the innermost last."""
        if not hasattr(self._thread, "nested"):
            self._thread.nested = []
        nested: list[Values | None] = self._thread.nested
        return nested

    def _acquire(self, module: nn.Module, values: Values | None) -> None:
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                self._changed.wait_for(
                    lambda: self._waiting[0] is ticket and (self._users == 0 or self._values is values)
                )
                if self._values is not values:
                    self._assign(module, values)
                self._users += 1
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()

    def _release(self) -> None:
        with self._changed:
            self._users -= 1
            if self._users == 0:
                self._restore()
            self._changed.notify_all()

    def _assign(self, module: nn.Module, values: Values | None) -> None:
        self._restore()
        if values is None:
            return
        try:
            # Parameters that have no average, such as those of loss terms, keep their values.
            averaged = [(name, p) for name, p in module.named_parameters() if name in values]
            for name, parameter in averaged:
                self._own.append((parameter, parameter.data))
                parameter.data = values[name].to(parameter.device, parameter.dtype)
        except BaseException:
            self._restore()
            raise
        self._values = values
        # Autocast caches half-precision copies by parameter, not by storage.
        torch.clear_autocast_cache()

    def _restore(self) -> None:
        for parameter, data in self._own:
            parameter.data = data
        if self._own:
            torch.clear_autocast_cache()
        self._own, self._values = [], None


class SharedMode(_Unsaved):
    """Keep a module in evaluation mode while any thread samples; the last thread restores the training modes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._modes: list[tuple[nn.Module, bool]] = []

    @contextmanager
    def evaluation(self, module: nn.Module) -> Iterator[None]:
        """Keep the module in evaluation mode inside the block.

        Args:
            module: The module, the same in every call.
        """
        with self._lock:
            if not self._users:
                self._modes = [(part, part.training) for part in module.modules()]
            self._users += 1
            module.eval()
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    for part, training in self._modes:
                        part.training = training
                    self._modes = []
