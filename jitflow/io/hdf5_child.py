"""Program that reads arrays of HDF5 files for another process: a damaged file can make the HDF5 library loop or crash.

It is run as a file, without jitflow: ``python -I hdf5_child.py FOLDER_OF_H5PY FOLDER_OF_NUMPY``. A request is one line
of JSON on its standard input, the answer a length, JSON of that length and, for an array, its bytes.
"""

from __future__ import annotations

import json
import math
import signal
import struct
import sys
from contextlib import suppress
from typing import Any, BinaryIO

_BASE_BYTES = 2 << 30


def _limit(seconds: int, num_bytes: int) -> None:
    """Limit the processor time from now on, and the memory; the system kills a process that exceeds the former."""
    try:
        import resource
    except ImportError:  # Windows
        return
    usage = resource.getrusage(resource.RUSAGE_SELF)
    limits = {
        resource.RLIMIT_CPU: math.ceil(usage.ru_utime + usage.ru_stime) + seconds,
        resource.RLIMIT_AS: _BASE_BYTES + num_bytes,
        resource.RLIMIT_CORE: 0,
    }
    for kind, value in limits.items():
        hard = resource.getrlimit(kind)[1]
        with suppress(ValueError, OSError):
            resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _entries(file: Any) -> dict[str, Any]:
    """Return the arrays of a file by name: each object once, and no link into other files is followed."""
    import h5py

    found: dict[str, Any] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.shape is not None and not name.startswith("#"):
            found[name] = item

    file.visititems(visit)
    return found


def _read(item: Any, request: dict[str, Any]) -> Any:
    """Read an array whose size its bytes in the file justify."""
    import numpy as np

    if item.is_virtual or item.external:
        raise ValueError("it lies in other files")
    if item.dtype.hasobject:
        raise ValueError("it holds objects")
    num_bytes, available = math.prod(item.shape) * item.dtype.itemsize, request["ratio"] * item.id.get_storage_size()
    if num_bytes > available:
        raise ValueError(f"it declares {num_bytes} bytes and can hold {available}")
    _limit(request["seconds"], 4 * num_bytes)
    return np.ascontiguousarray(item[()])


def _answer(request: dict[str, Any], out: BinaryIO) -> None:
    import h5py

    array = None
    try:
        _limit(request["seconds"], 4 * request["size"])
        with h5py.File(request["path"], "r") as file:
            found = _entries(file)
            if request["name"] is None:
                answer: dict[str, Any] = {"entries": {k: [list(v.shape), v.dtype.str] for k, v in found.items()}}
            else:
                array = _read(found[request["name"]], request)
                answer = {"shape": list(array.shape), "dtype": array.dtype.str, "num_bytes": array.nbytes}
    except Exception as error:  # noqa: BLE001 (whatever it is, the other process tells it)
        answer, array = {"error": str(error) or type(error).__name__}, None
    text = json.dumps(answer).encode()
    out.write(struct.pack("<Q", len(text)) + text)
    if array is not None and array.nbytes:
        out.write(memoryview(array).cast("B"))
    out.flush()


def main() -> None:
    """Read the arrays that are asked for, until the standard input ends."""
    # A Ctrl-C is for the other process, whose end is also the end of the requests.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.path += sys.argv[1:]
    for line in sys.stdin.buffer:
        _answer(json.loads(line), sys.stdout.buffer)


if __name__ == "__main__":
    main()
