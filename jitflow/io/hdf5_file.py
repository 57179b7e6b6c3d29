"""Read arrays of HDF5 files in a process of their own, which is killed if a damaged file makes the library loop.

The HDF5 library (2.0, with h5py 3.16) does not come back from a file whose tree of groups leads to itself; nothing in
the same process could end that.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from jitflow.errors import optional_package
from jitflow.io.json_text import parse_json
from jitflow.io.npz_file import MAX_DEFLATE_RATIO

# Of processor time for one request, and the bytes that one more second is given for.
_SECONDS, _BYTES_PER_SECOND = 2, 20_000_000
_PROGRAM = Path(__file__).with_name("hdf5_child.py")
_lock = threading.Lock()
# By the process that started it, since a fork must not share its pipes.
_processes: dict[int, subprocess.Popen[bytes]] = {}


def list_hdf5_arrays(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """List the arrays of an HDF5 file by name, with shapes and types; links into other files are left out.

    Args:
        path: The file.

    Raises:
        ValueError: If it is damaged.
        ConfigError: If h5py is not installed.
    """
    answer, _ = _ask(path, None)
    return {name: (tuple(shape), np.dtype(dtype)) for name, (shape, dtype) in answer["entries"].items()}


def read_hdf5_array(path: Path, name: str) -> np.ndarray:
    """Read an array of an HDF5 file.

    Args:
        path: The file.
        name: The array, as :func:`list_hdf5_arrays` names it.

    Raises:
        ValueError: If it is damaged, holds objects, lies in another file, or declares more than its bytes can hold.
        ConfigError: If h5py is not installed.
    """
    answer, content = _ask(path, name)
    shape, dtype = tuple(answer["shape"]), np.dtype(answer["dtype"])
    return np.frombuffer(content, dtype, math.prod(shape)).reshape(shape)


def _ask(path: Path, name: str | None) -> tuple[dict[str, Any], bytearray]:
    size = path.stat().st_size
    request = {
        "path": str(path.resolve()),
        "name": name,
        "size": size,
        "ratio": MAX_DEFLATE_RATIO,
        "seconds": _SECONDS + size // _BYTES_PER_SECOND,
    }
    with _lock:
        process = _start()
        try:
            answer, content = _exchange(process, (json.dumps(request) + "\n").encode())
        except (OSError, EOFError):
            _end()
            raise ValueError(
                f"the HDF5 library took over {request['seconds']} s or too much memory, or crashed"
            ) from None
        except BaseException:
            # Half an answer may be left in the pipe.
            _end()
            raise
    if "error" in answer:
        raise ValueError(answer["error"])
    return answer, content


def _start() -> subprocess.Popen[bytes]:
    """Return this process's reader, which is started for the first file."""
    with optional_package("h5py", missing="HDF5 files need h5py; run `pip install 'jitflow[radar]'`"):
        import h5py
    process = _processes.get(os.getpid())
    if process is None or process.poll() is not None:
        places = [str(Path(str(package.__file__)).parents[1]) for package in (h5py, np)]
        process = _processes[os.getpid()] = subprocess.Popen(
            [sys.executable, "-I", str(_PROGRAM), *places],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Threads of linear algebra would reserve memory that is limited.
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )
    return process


def _exchange(process: subprocess.Popen[bytes], request: bytes) -> tuple[dict[str, Any], bytearray]:
    """Send a request and receive its answer, and the bytes of an array after it."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(request)
    process.stdin.flush()
    (length,) = struct.unpack("<Q", _receive(process, 8))
    answer = parse_json(_receive(process, length).decode())
    return answer, _receive(process, answer.get("num_bytes", 0))


def _receive(process: subprocess.Popen[bytes], num_bytes: int) -> bytearray:
    """Receive bytes; raise EOFError if the process ended before."""
    assert process.stdout is not None
    content = bytearray(num_bytes)
    place = 0
    while place < num_bytes:
        received = process.stdout.readinto(memoryview(content)[place:])  # type: ignore[attr-defined]
        if not received:
            raise EOFError
        place += received
    return content


@atexit.register
def _end() -> None:
    """Kill the reader, which holds nothing that could be lost."""
    process = _processes.pop(os.getpid(), None)
    if process is not None:
        process.kill()
        process.communicate()
