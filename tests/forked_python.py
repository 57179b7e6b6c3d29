"""A Python for tests that starts at once: forked from a process that has imported torch and Lightning already.

A start of Python with these libraries takes seven seconds of processor time, most of what a test of a script or a
command costs. :func:`forked_python` returns a program that stands in for ``sys.executable``: it takes ``-c``, ``-m``
and scripts, with ``-S`` before them, passes on the standard streams, the environment, the working folder and signals,
and ends as the process does. The process imports jitflow afresh, from where a real one would find it; what it starts
with ``sys.executable`` is forked as well. Tests of the start itself (threads, terminals, imports that are missing or
late) start a real Python.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import gc
import importlib
import io
import itertools
import json
import multiprocessing
import os
import runpy
import select
import shlex
import shutil
import signal
import site
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import ModuleType
from typing import NoReturn

# What jitflow's commands import; nothing of jitflow itself, of which a test may run a copy.
LIBRARIES = (
    "torch", "torchvision", "torchmetrics", "lightning.pytorch", "lightning.pytorch.loggers", "jsonargparse", "yaml",
    "numpy", "PIL.Image", "safetensors.torch", "tensorboard.compat.proto.event_pb2", "sklearn.datasets",
)  # fmt: skip
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
# The second is what processes of multiprocessing are given; here all share the compiled files.
_FLAGS = ("-S", "-B")
_SERVER, _CLIENT = "--serve", "--run"


@functools.cache
def forked_python() -> str:
    """Start the process that is forked, which ends with this one; return the path of the program ``python3``.

    Elsewhere than on Linux it is Python itself.
    """
    if sys.platform != "linux":
        return sys.executable
    folder = Path(tempfile.mkdtemp(prefix="forked_python"))
    address, program = folder / "socket", folder / "python3"
    run = shlex.join([sys.executable, "-I", "-S", __file__, _CLIENT, str(address)])
    program.write_text(f'#!/bin/sh\nexec {run} "$@"\n')
    program.chmod(0o755)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    # Without site-packages, so that a process with -S does not have them.
    places = [place for place in sys.path if "site-packages" in place]
    command = [sys.executable, "-S", __file__, _SERVER, str(address), str(program), *places]
    # The end of its input, which is the end of this process, ends it.
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    assert server.stdout is not None
    if server.stdout.readline() != b"ready\n":
        raise RuntimeError("the process to be forked has not started; its error is above")
    forked_python.server = server  # type: ignore[attr-defined]
    return str(program)


# ------------------------------------------------------------------------------------------------ in the program


def _run(address: str, words: list[str]) -> int:
    """Have a process forked that runs words with this one's streams; return its status, or end by its signal."""
    # Those that this process was given, among them the standard streams; its own are not inheritable.
    numbers = [number for number in map(int, os.listdir("/proc/self/fd")) if _is_inheritable(number)]  # noqa: PTH208
    request = json.dumps([numbers, words, str(Path.cwd()), dict(os.environ)]).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        socket.send_fds(connection, [len(request).to_bytes(8, "big")], numbers)
        connection.sendall(request)
        replies = connection.makefile()
        process = int(replies.readline())

        def forward(number: int, frame: object) -> None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)

        for number in FORWARDED:
            signal.signal(number, forward)
        status = replies.readline()
    if not status:
        sys.exit("the process that runs this was ended")
    if int(status) < 0:
        signal.signal(-int(status), signal.SIG_DFL) if -int(status) in FORWARDED else None
        os.kill(os.getpid(), -int(status))
    return int(status)


def _is_inheritable(number: int) -> bool:
    try:
        return os.get_inheritable(number)
    except OSError:
        # Of the listing itself, which has ended.
        return False


# ------------------------------------------------------------------------------------- in the process to be forked


def _serve(address: str, program: str) -> None:
    """Fork for each connection, until the standard input ends; return only in the process that is to run something."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            ready, _, _ = select.select([listening, 0], [], [], 1.0)
            _reap()
            if 0 in ready and not os.read(0, 1):
                shutil.rmtree(Path(program).parent)
                os._exit(0)
            if listening not in ready:
                continue
            connection, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                break
            connection.close()
    _supervise(connection, program)


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _supervise(connection: socket.socket, program: str) -> None:
    """Fork once more, report the process and its end; kill it if the program that asked for it is gone."""
    header, descriptors, _, _ = socket.recv_fds(connection, 8, 250)
    size, request = int.from_bytes(header, "big"), b""
    while len(request) < size:
        request += connection.recv(size - len(request))
    process = os.fork()
    if process == 0:
        connection.close()
        _become(descriptors, *json.loads(request), program)
        return
    for descriptor in descriptors:
        os.close(descriptor)
    with contextlib.suppress(BrokenPipeError):
        connection.sendall(f"{process}\n".encode())
    ended = os.pidfd_open(process)
    if ended not in select.select([connection, ended], [], [])[0]:
        os.kill(process, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    with contextlib.suppress(OSError):
        connection.sendall(f"{status}\n".encode())
    os._exit(0)


def _become(
    descriptors: list[int], numbers: list[int], words: list[str], cwd: str, environment: dict[str, str], program: str
) -> None:
    """Take over streams, folder, environment and module path of the process that was asked for, and run it."""
    # Out of the way of the numbers that they had there.
    kept = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 500) for descriptor in descriptors]
    os.closerange(min(descriptors), 500)
    for number, descriptor in zip(numbers, kept, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [place for place in environment.get("PYTHONPATH", "").split(os.pathsep) if place]
    flags = list(itertools.takewhile(lambda word: word in _FLAGS, words))
    if "-S" not in flags:
        site.main()
    sys.executable = program
    multiprocessing.set_executable(program)
    # The sources of jitflow are compiled once for all processes.
    sys.pycache_prefix, sys.dont_write_bytecode = str(Path(program).with_name("pycache")), False
    try:
        _execute(words[len(flags) :])
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            _end(end.code or 0)
        sys.stderr.write(f"{end.code}\n")
        _end(1)
    _end(0)


def _execute(words: list[str]) -> None:
    """Do what ``python WORDS`` does."""
    kind, *more = words
    if kind == "-c":
        code, *arguments = more
        sys.argv, sys.path[:0] = ["-c", *arguments], [""]
        module = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(code, "<string>", "exec"), vars(module))
    elif kind == "-m":
        name, *arguments = more
        sys.argv, sys.path[:0] = [name, *arguments], [str(Path.cwd())]
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    elif not kind.startswith("-"):
        sys.argv, sys.path[:0] = words, [str(Path(kind).resolve().parent)]
        runpy.run_path(kind, run_name="__main__")
    else:
        raise ValueError(f"a forked Python takes -S and -B before -c, -m or a script; got {kind}")


def _end(status: int) -> NoReturn:
    """End as the interpreter does, but for taking every imported module apart, which takes half a second."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if not stream.closed:
            stream.flush()
    os._exit(status)


# ------------------------------------------------------------------------------------- in the process to be forked


def _make_streams() -> None:
    """Make standard streams that do not count on a place in a file; the libraries keep these objects."""
    reading, writing = os.pipe()
    for name, number in (("stdout", 1), ("stderr", 2)):
        kept = os.dup(number)
        os.dup2(writing, number)
        binary = io.BufferedWriter(io.FileIO(number, "w", closefd=False))
        stream = io.TextIOWrapper(binary, encoding="utf-8", line_buffering=number == 2)
        os.dup2(kept, number)
        os.close(kept)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    os.close(reading)
    os.close(writing)


def _load_libraries(places: list[str]) -> None:
    """Import what every process needs, without starting a thread, which no fork would copy."""
    # In place of the folder of this file.
    before = sys.path[1:]
    sys.path[:] = [*before, *places]
    for name in LIBRARIES:
        # Some are optional.
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(name)
    sys.path[:] = before
    assert not any(name.partition(".")[0] == "jitflow" for name in sys.modules)
    assert len(list(Path("/proc/self/task").iterdir())) == 1
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    mode, address, *given = sys.argv[1:]
    if mode == _CLIENT:
        sys.exit(_run(address, given))
    program, *places = given
    _make_streams()
    _load_libraries(places)
    _serve(address, program)
