"""Scan the pickle of a checkpoint before torch reads it: what it names, and how much making its values costs.

Torch's ``weights_only`` unpickler runs no code of a file, but a few bytes can still ask it for gigabytes
(``bytearray(10**10)``), for hours (a large list copied a million times), or for tensors of kinds that nothing here can
use. The scan follows the pickle's instructions with stand-ins for its values and makes nothing.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

_MOST_STEPS = 3_000_000
# Bytes of the pickle without its tensors; a checkpoint of a billion parameters has a megabyte, plus its texts.
_MOST_BYTES = 1 << 28
_TENSORS = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_parameter")
_NUMBERS = (
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "half", "float", "double"),
    *("float16", "float32", "float64", "bfloat16", "complex32", "complex64", "complex128"),
    *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
)
_STORAGES = (
    *("Bool", "Byte", "Char", "Short", "Int", "Long", "Half", "BFloat16", "Float", "Double"),
    *("ComplexFloat", "ComplexDouble"),
)
_BYTES = "_codecs.encode"
_NAMES = {
    *("collections.OrderedDict", "collections.Counter", "builtins.set", "builtins.complex", _BYTES),
    *("argparse.Namespace", "torch.Size", "torch.device", "torch.nn.parameter.Parameter"),
    "torch.storage.UntypedStorage",
    *(f"torch._utils.{name}" for name in _TENSORS),
    *(f"torch.{name}" for name in _NUMBERS),
    *(f"torch.{name}Storage" for name in _STORAGES),
}
# What a tensor of another kind is called, by the function that makes it.
_OTHER_TENSORS = {
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils._rebuild_qtensor": "a quantised tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "a tensor of the meta device, which has no numbers",
    "torch._utils._rebuild_nested_tensor": "a nested tensor",
}
_LEAST_BIG_INT_BYTES = 9


@dataclass(eq=False)
class _Value:
    """Stand-in for a value that is no plain number or short text, with the number of values in it."""

    size: int = 1
    name: str = ""


# A number whose hash an attacker can choose.
_BIG_INT = _Value()
_OTHER = _Value()


class UnsafePickleError(ValueError):
    """The pickle of a checkpoint names what no checkpoint needs, or asks for more than its size justifies."""


def scan_pickle(file: BinaryIO, allowed: set[str], *, file_bytes: int) -> None:
    """Follow the instructions of the next pickle in a file; the file is then at its end.

    Args:
        file: The pickle.
        allowed: Names of classes that it may name, besides those of tensors and plain containers.
        file_bytes: Size of the whole file, which bounds the numbers in its tensors.

    Raises:
        UnsafePickleError: If it names anything else, or asks for too much.
        ValueError: If it is damaged.
    """
    try:
        _Scan(allowed | _NAMES, file_bytes).run(file)
    except UnsafePickleError:
        raise
    # A damaged pickle ends in the middle, takes from an empty stack, calls a number, ...
    except Exception:  # noqa: BLE001
        raise ValueError("its pickle is damaged") from None


class _Scan:
    """State of an unpickler whose values are stand-ins."""

    def __init__(self, names: set[str], file_bytes: int) -> None:
        self._names, self._file_bytes = names, file_bytes
        self._stack: list[Any] = []
        self._outer: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._steps = 0
        self._storages: set[str] = set()
        self._numbers = 0

    def run(self, file: BinaryIO) -> None:
        start = file.tell()
        for opcode, argument, place in pickletools.genops(file):
            self._count(1)
            if (place or 0) - start > _MOST_BYTES:
                raise UnsafePickleError(f"its settings take more than {_MOST_BYTES:,} bytes")
            action = _ACTIONS.get(opcode.name)
            if action is None:
                raise UnsafePickleError(f"it has the instruction {opcode.name}, which torch.save does not write")
            action(self, argument)

    def _count(self, steps: int) -> None:
        self._steps += steps
        if self._steps > _MOST_STEPS:
            raise UnsafePickleError(f"reading it would take more than {_MOST_STEPS:,} steps")

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def text(self, value: Any) -> None:
        # Only short ones have a meaning here.
        self.push(value if isinstance(value, str) and len(value) < 32 else "")

    def integer(self, value: int) -> None:
        self.push(value if value.bit_length() < 8 * _LEAST_BIG_INT_BYTES - 8 else _BIG_INT)

    def name(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        full = f"{'builtins' if module == '__builtin__' else module}.{name}"
        if full in _OTHER_TENSORS:
            raise UnsafePickleError(f"it holds {_OTHER_TENSORS[full]}; save it as an ordinary one")
        if full not in self._names:
            raise UnsafePickleError(f"Unsupported global: GLOBAL {full}")
        self.push(_Value(name=full))

    def mark(self, _: Any) -> None:
        self._outer.append(self._stack)
        self._stack = []

    def _pop_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._outer.pop()
        return items

    def tuple_of(self, num: int | None) -> None:
        items = self._pop_mark() if num is None else [self._stack.pop() for _ in range(num)][::-1]
        self.push(tuple(items))

    def add(self, *, marked: bool, pairs: bool) -> None:
        items = self._pop_mark() if marked else [self._stack.pop() for _ in range(1 + pairs)][::-1]
        if pairs and any(key is _BIG_INT for key in items[::2]):
            raise UnsafePickleError("it has a key that is a number of more than 64 bits")
        self._stack[-1].size += len(items)

    def call(self, *, keeps: bool) -> None:
        """Count what a call, a state or a new object costs: everything that it may copy."""
        arguments = self._stack.pop()
        function = self._stack[-1] if keeps else self._stack.pop()
        self._count(sum(map(_size, arguments)) if isinstance(arguments, tuple) else _size(arguments))
        if keeps:
            return
        if function.name == _BYTES and (len(arguments) != 2 or arguments[1] != "latin1"):
            raise UnsafePickleError("it holds bytes in an unknown encoding")
        self.push(_Value())

    def storage(self, _: Any) -> None:
        persistent = self._stack.pop()
        if isinstance(persistent, tuple) and len(persistent) > 4 and isinstance(persistent[4], int):
            if not isinstance(persistent[2], str) or not persistent[2]:
                raise UnsafePickleError("its tensors have odd names")
            # No number takes less than a byte.
            if persistent[2] not in self._storages:
                self._storages.add(persistent[2])
                self._numbers += persistent[4]
            if persistent[4] < 0 or self._numbers > self._file_bytes:
                raise UnsafePickleError("its tensors have more numbers than the file has bytes")
        self.push(_OTHER)

    def put(self, index: int | None) -> None:
        assert index is not None
        self._memo[index] = self._stack[-1]

    def get(self, index: int) -> None:
        self.push(self._memo[index])


def _size(value: Any) -> int:
    return len(value) if isinstance(value, tuple) else value.size if isinstance(value, _Value) else 1


def _opcode_actions() -> Iterator[tuple[str, Callable[[_Scan, Any], None]]]:
    """Yield what each instruction that torch's unpickler knows does, by its name in :mod:`pickletools`."""
    for name in ("NONE", "NEWFALSE", "NEWTRUE", "BINFLOAT"):
        yield name, lambda scan, _: scan.push(_OTHER)
    for name in ("BININT", "BININT1", "BININT2", "LONG1"):
        yield name, lambda scan, value: scan.integer(value)
    for name in ("EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"):
        yield name, lambda scan, _: scan.push(_Value())
    for name in ("BINPUT", "LONG_BINPUT"):
        yield name, _Scan.put
    for name in ("BINGET", "LONG_BINGET"):
        yield name, _Scan.get
    for name in ("PROTO", "STOP"):
        yield name, lambda scan, _: None
    # The second one is how Python 2 wrote texts, as in LPIPS's file.
    for name in ("BINUNICODE", "SHORT_BINSTRING"):
        yield name, _Scan.text
    yield "GLOBAL", _Scan.name
    yield "MARK", _Scan.mark
    yield "BINPERSID", _Scan.storage
    yield "EMPTY_TUPLE", lambda scan, _: scan.push(())
    yield "TUPLE", lambda scan, _: scan.tuple_of(None)
    yield "TUPLE1", lambda scan, _: scan.tuple_of(1)
    yield "TUPLE2", lambda scan, _: scan.tuple_of(2)
    yield "TUPLE3", lambda scan, _: scan.tuple_of(3)
    yield "APPEND", lambda scan, _: scan.add(marked=False, pairs=False)
    yield "APPENDS", lambda scan, _: scan.add(marked=True, pairs=False)
    yield "SETITEM", lambda scan, _: scan.add(marked=False, pairs=True)
    yield "SETITEMS", lambda scan, _: scan.add(marked=True, pairs=True)
    yield "BUILD", lambda scan, _: scan.call(keeps=True)
    for name in ("REDUCE", "NEWOBJ"):
        yield name, lambda scan, _: scan.call(keeps=False)


_ACTIONS = dict(_opcode_actions())
