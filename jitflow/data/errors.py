"""Error of one unusable sample, which stays one line when a loader's worker raises it."""

from __future__ import annotations

from jitflow.errors import DataError


class SampleError(DataError):
    """A sample of the data set cannot be read or used.

    A worker process sends an error to the main process as its class and the whole traceback, and the main process
    calls the class with that text; only its last line is of use to a user.

    Args:
        message: One line, or a traceback that ends in one.
    """

    def __init__(self, message: str) -> None:
        last = message.strip().rsplit("\n", 1)[-1]
        super().__init__(last.removeprefix(f"{type(self).__module__}.{type(self).__qualname__}: "))
