"""What threads that sample from one module share: the values of its parameters, and its evaluation mode."""

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
    """Copies and pickles of a module share nothing with it: they get a new object."""

    def __reduce__(self) -> Any:
        return type(self), ()


class SharedWeights(_Unsaved):
    """Agree between threads on what the parameters of a module hold: its own weights, or an average of them.

    Users of the same values share them. Who wants others waits, first come first served, until nobody uses these; a
    thread that asks for other values inside a block of its own does not use the outer ones meanwhile, so that two
    threads never wait for each other.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        self._users = 0
        # What the parameters hold now; None for the module's own weights, which lie in the list otherwise.
        self._values: Values | None = None
        self._own: list[tuple[nn.Parameter, Tensor]] = []
        self._thread = threading.local()

    @contextmanager
    def use(self, module: nn.Module, values: Values | None) -> Iterator[None]:
        """Let the parameters hold these values inside the block.

        Args:
            module: The module, always the same one.
            values: A value for each parameter, by name; None for the module's own weights. Nothing is copied where
                both are of the same precision on the same device.
        """
        held = self._held()
        if held and held[-1] is values:
            yield
            return
        if held:
            self._leave()
        try:
            self._enter(module, values)
        except BaseException:
            if held:
                self._enter(module, held[-1])
            raise
        held.append(values)
        try:
            yield
        finally:
            held.pop()
            self._leave()
            if held:
                self._enter(module, held[-1])

    @contextmanager
    def use_present(self, module: nn.Module) -> Iterator[None]:
        """Keep inside the block what this thread uses already, or else the module's own weights."""
        held = self._held()
        with self.use(module, held[-1] if held else None):
            yield

    def _held(self) -> list[Values | None]:
        """What the blocks of this thread ask for, the innermost last."""
        if not hasattr(self._thread, "held"):
            self._thread.held = []
        held: list[Values | None] = self._thread.held
        return held

    def _enter(self, module: nn.Module, values: Values | None) -> None:
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                self._changed.wait_for(
                    lambda: self._waiting[0] is ticket and (self._users == 0 or self._values is values)
                )
                if self._values is not values:
                    self._put(module, values)
                self._users += 1
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()

    def _leave(self) -> None:
        with self._changed:
            self._users -= 1
            if self._users == 0:
                self._put_back()
            self._changed.notify_all()

    def _put(self, module: nn.Module, values: Values | None) -> None:
        self._put_back()
        if values is None:
            return
        try:
            for name, parameter in module.named_parameters():
                self._own.append((parameter, parameter.data))
                parameter.data = values[name].to(parameter.device, parameter.dtype)
        except BaseException:
            self._put_back()
            raise
        self._values = values
        # Autocast remembers the half-precision copy of a parameter, not of its storage.
        torch.clear_autocast_cache()

    def _put_back(self) -> None:
        for parameter, data in self._own:
            parameter.data = data
        if self._own:
            torch.clear_autocast_cache()
        self._own, self._values = [], None


class SharedMode(_Unsaved):
    """Keep a module in evaluation mode while any thread needs it; the last one gives every part its mode back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._modes: list[tuple[nn.Module, bool]] = []

    @contextmanager
    def evaluation(self, module: nn.Module) -> Iterator[None]:
        """Keep the module in evaluation mode inside the block.

        Args:
            module: The module, always the same one.
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
