"""Arrays and tables in the formats of laboratories: what was written is read, and no file takes more than it holds."""

from __future__ import annotations

import multiprocessing
import os
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jitflow.errors import ConfigError, DataError, MissingFileError
from jitflow.io import array_formats
from jitflow.io.array_formats import open_array_file
from jitflow.io.table_file import read_table

RISING = np.arange(48).reshape(6, 8)


def write(path, values, name="spectrogram", **beside):
    """Write an array, and others beside it where the format has names."""
    kind = path.suffix
    if kind == ".npy":
        np.save(path, values)
    elif kind == ".npz":
        np.savez_compressed(path, **{name: values}, **beside)
    elif kind == ".mat":
        pytest.importorskip("scipy")
        from scipy.io import savemat

        savemat(path, {name: values, **beside}, do_compression=True)
    elif kind == ".h5":
        with pytest.importorskip("h5py").File(path, "w") as file:
            for key, array in {name: values, **beside}.items():
                compressed = {"compression": "gzip"} if np.ndim(array) else {}
                file.create_dataset(f"group/{key}", data=array, **compressed)
    else:
        planes = [Image.fromarray(plane) for plane in (values if values.ndim == 3 else values[None])]
        planes[0].save(path, save_all=True, append_images=planes[1:])
    return path


def read(path, name=None):
    with open_array_file(path) as arrays:
        return arrays.read(next(iter(arrays.entries)) if name is None else name)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int16", "uint8", "int64"])
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".h5", ".mat"])
def test_every_format_gives_back_every_type(tmp_path, suffix, dtype):
    if suffix == ".mat" and dtype == "float16":
        return
    values = (RISING - 20).astype(dtype)
    path = write(tmp_path / f"a{suffix}", values, time_sec=np.arange(8.0))
    found = read(path, "group/spectrogram" if suffix == ".h5" else "" if suffix == ".npy" else "spectrogram")
    assert found.dtype == dtype and np.array_equal(found, values)


@pytest.mark.parametrize("dtype", ["float32", "int32", "uint16", "uint8"])
def test_tiff_gives_back_pages_of_numbers(tmp_path, dtype):
    values = (RISING * 3).astype(dtype)
    assert np.array_equal(read(write(tmp_path / "a.tif", values)), values)
    assert np.array_equal(
        read(write(tmp_path / "two.tiff", np.stack([values, values.T.reshape(6, 8)]))).shape, (2, 6, 8)
    )


def test_matlab_7_3_has_its_columns_first(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "a.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        file["sxx"] = RISING.T.astype("float64")
        file["#refs#/a"] = np.arange(3)
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(512) + path.read_bytes()[512:])
    with open_array_file(path) as arrays:
        assert {name: shape for name, (shape, _) in arrays.entries.items()} == {"sxx": (6, 8)}
        assert np.array_equal(arrays.read("sxx"), RISING)


class Trap:
    """Makes a folder when it is unpickled."""

    def __reduce__(self):
        return (os.mkdir, ("trap",))


def pickled(folder):
    path = folder / "a.npy"
    np.save(path, np.array([Trap()], dtype=object), allow_pickle=True)
    return path


def declaring(suffix):
    """A file whose header declares 10,000,000,000 numbers."""

    def make(folder):
        path = folder / f"a{suffix}"
        if suffix == ".npy":
            with path.open("wb") as file:
                np.lib.format.write_array_header_1_0(
                    file, {"descr": "<f4", "fortran_order": False, "shape": (100_000, 100_000)}
                )
                file.write(bytes(100))
        elif suffix == ".h5":
            with pytest.importorskip("h5py").File(path, "w") as file:
                file.create_dataset("a", (100_000, 100_000), "f4", chunks=(1000, 1000))
        elif suffix == ".mat":
            from scipy.io import savemat

            savemat(path, {"a": np.zeros((6, 8))})
            dims = struct.pack("<2i", 6, 8)
            path.write_bytes(path.read_bytes().replace(dims, struct.pack("<2i", 100_000, 100_000)))
        else:
            write(path, np.zeros((6, 8), np.float32))
            content = path.read_bytes()
            for tag in (256, 257):
                for kind in (3, 4):
                    at = content.find(struct.pack("<HHI", tag, kind, 1))
                    if at >= 0:
                        content = content[: at + 2] + struct.pack("<HII", 4, 1, 13_000) + content[at + 12 :]
            path.write_bytes(content)
        return path

    return make


def in_other_files(folder):
    h5py = pytest.importorskip("h5py")
    (folder / "secret").write_bytes(bytes(400))
    path = folder / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("a", (10, 10), "f4", external=[("secret", 0, 400)])
    return path


def broken(suffix):
    def make(folder):
        path = write(folder / f"a{suffix}", RISING.astype(np.float32))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return path

    return make


HOSTILE = [pickled, in_other_files, *(declaring(s) for s in (".npy", ".h5", ".mat", ".tif"))]
HOSTILE += [broken(s) for s in (".npy", ".npz", ".h5", ".mat", ".tif")]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("make", HOSTILE)
def test_a_hostile_or_broken_file_is_one_error_that_names_it(tmp_path, monkeypatch, make):
    monkeypatch.chdir(tmp_path)
    path = make(tmp_path)
    with pytest.raises(DataError, match=str(path)) as error:
        read(path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize("suffix", [".npy", ".h5"])
def test_a_declared_size_is_compared_with_that_of_the_file(tmp_path, suffix):
    with pytest.raises(DataError, match="declares"):
        read(declaring(suffix)(tmp_path))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".h5", ".mat", ".tif"])
def test_damaged_bytes_are_read_or_refused(tmp_path, suffix):
    whole = bytearray(write(tmp_path / f"whole{suffix}", RISING.astype(np.float32)).read_bytes())
    draws = np.random.default_rng(0)
    path = tmp_path / f"a{suffix}"
    refused = 0
    for _ in range(40):
        content = whole.copy()
        for place in draws.integers(0, len(whole), 4):
            content[place] = draws.choice([0, 1, 127, 255, int(draws.integers(256))])
        path.write_bytes(content)
        try:
            read(path)
        except DataError as error:
            assert str(path) in str(error)
            refused += 1
        except StopIteration:
            assert suffix in (".h5", ".mat", ".npz")
    assert refused


def test_arrays_of_matlab_that_are_no_numbers_are_left_out(tmp_path):
    savemat = pytest.importorskip("scipy.io").savemat
    content = {"text": "abc", "cell": np.array([1, "a"], dtype=object), "z": RISING + 1j, "flag": True, "x": RISING}
    savemat(tmp_path / "a.mat", content, do_compression=False)
    with open_array_file(tmp_path / "a.mat") as arrays:
        assert {name: dtype.kind for name, (_, dtype) in arrays.entries.items()} == {"z": "c", "flag": "u", "x": "i"}
        assert np.array_equal(arrays.read("x"), RISING)
    (tmp_path / "four.mat").write_bytes(b"")
    savemat(tmp_path / "four.mat", {"x": RISING * 1.0}, format="4")
    with pytest.raises(DataError, match="-v7"):
        read(tmp_path / "four.mat")


def test_links_into_other_files_are_no_arrays(tmp_path):
    h5py = pytest.importorskip("h5py")
    write(tmp_path / "other.h5", RISING)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["own"] = RISING
        file["link"] = h5py.ExternalLink("other.h5", "group/spectrogram")
    with open_array_file(tmp_path / "a.h5") as arrays:
        assert list(arrays.entries) == ["own"]


def test_a_missing_file_or_package_says_what_helps(tmp_path, monkeypatch):
    with pytest.raises(MissingFileError), open_array_file(tmp_path / "none.npy"):
        pass
    path = write(tmp_path / "a.h5", RISING)
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(ConfigError, match=r"jitflow\[radar\]"):
        read(path)


def test_a_file_that_makes_the_library_loop_is_refused_and_the_next_one_is_read(tmp_path):
    pytest.importorskip("h5py")
    looping = tmp_path / "looping.h5"
    looping.write_bytes((Path(__file__).parents[1] / "fuzz" / "findings" / "array-level-h5-146").read_bytes())
    with pytest.raises(DataError, match=r"looping\.h5 .*HDF5 library took over 2 s"):
        read(looping)
    path = write(tmp_path / "a.h5", RISING)
    assert np.array_equal(read(path, "group/spectrogram"), RISING)


def _read_in_a_fork(path, queue):
    queue.put(read(path, "group/spectrogram").sum())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
def test_a_fork_reads_hdf5_beside_its_parent(tmp_path):
    pytest.importorskip("h5py")
    path = write(tmp_path / "a.h5", RISING)
    expected = read(path, "group/spectrogram").sum()
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    forks = [context.Process(target=_read_in_a_fork, args=(path, queue)) for _ in range(2)]
    for fork in forks:
        fork.start()
    assert [read(path, "group/spectrogram").sum() for _ in range(20)] == [expected] * 20
    assert [queue.get() for _ in forks] == [expected] * 2
    for fork in forks:
        fork.join()


# ------------------------------------------------------------------------------------------------------- tables


@pytest.mark.parametrize(
    "text", ["path,user\na b.npy,1\nc.npy,02\n", "\ufeffpath;user\r\na b.npy;1\r\n\r\nc.npy;02\r\n"]
)
def test_csv_is_read_as_text(tmp_path, text):
    (tmp_path / "a.csv").write_text(text, encoding="utf-8", newline="")
    assert read_table(tmp_path / "a.csv") == {"path": ["a b.npy", "c.npy"], "user": ["1", "02"]}


def test_parquet_is_read_as_text(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = {"path": ["a", "b"], "user": [1.0, None], "session": [3, 4], "list": [[1], [2]]}
    parquet.write_table(pyarrow.table(table), tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet") == {"path": ["a", "b"], "user": ["1", ""], "session": ["3", "4"]}


def test_a_small_parquet_file_takes_little_memory(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    def write(columns):
        parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet", store_schema=False)

    # Two texts of 100 kB in 20,000 rows: 2 GB if each row had its own.
    indices = pyarrow.array([0, 1] * 10_000, pyarrow.int32())
    write({"path": pyarrow.DictionaryArray.from_arrays(indices, ["a" * 100_000, "b" * 100_000])})
    before = pyarrow.total_allocated_bytes()
    rows = read_table(tmp_path / "a.parquet")["path"]
    assert len(rows) == 20_000 and len(set(map(id, rows))) == 2 and {row[0] for row in rows[1::2]} == {"b"}
    assert pyarrow.default_memory_pool().max_memory() - before < 100_000_000
    zeros = pyarrow.array([0] * 600_000)
    write({f"c{i}": zeros for i in range(10)})
    with pytest.raises(DataError, match="6000000 cells"):
        read_table(tmp_path / "a.parquet")


def test_many_columns_take_time_in_proportion(tmp_path):
    names = [f"c{i}" for i in range(100_000)]
    (tmp_path / "a.csv").write_text(",".join(names) + "\n" + ",".join(names) + "\n")
    began = time.process_time()
    assert len(read_table(tmp_path / "a.csv")) == 100_000
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"path,user\na,1,2\n", "line 2"),
        ("a.csv", b"path,path\na,1\n", "twice"),
        ("a.csv", b"path,user\n", "no rows"),
        ("a.csv", b"path\n\xff\xfe\n", "UTF-8"),
        ("a.parquet", b"PAR1 something else PAR1", "Parquet"),
        ("a.parquet", b"", "empty"),
    ],
)
def test_a_broken_table_is_one_error_that_names_it(tmp_path, name, content, said):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said) as error:
        read_table(tmp_path / name)
    assert name in str(error.value) and "\n" not in str(error.value)


def test_a_small_table_of_millions_of_rows_is_refused(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"path": pyarrow.nulls(2_000_001, "int8")}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="2000001 rows"):
        read_table(tmp_path / "a.parquet")


def test_every_suffix_has_a_reader(tmp_path):
    for suffix in (*array_formats.ARRAY_SUFFIXES, *array_formats.TIFF_SUFFIXES):
        (tmp_path / f"a{suffix}").write_bytes(b"nonsense that is no array of numbers")
        with pytest.raises(DataError, match="cannot be read"):
            read(tmp_path / f"a{suffix}")
