"""The error of one unusable sample, made so that it stays one line through a loader's worker."""

from __future__ import annotations

from jitflow.errors import DataError


class SampleError(DataError):
    """One sample cannot be read or used.

    A worker process sends an error to the main process as its class and its whole traceback, and the main
    process calls the class with that text; only the last line of it means something to a user.

    Args:
        message: One line, or a traceback that ends in one.
    """

    def __init__(self, message: str) -> None:
        last = message.strip().rsplit("\n", 1)[-1]
        super().__init__(last.removeprefix(f"{type(self).__module__}.{type(self).__qualname__}: "))
