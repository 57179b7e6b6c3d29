"""Windows of token ids hold the text, all of it, and are a function of (seed, epoch, index)."""

import numpy as np
import torch
from letters import read

from jitflow.apps.text.token_store import TokenStream
from jitflow.apps.text.windows import DocumentWindows, EpochWindows, PackedWindows


def stream_of(*documents):
    ids = np.concatenate([[*map(ord, text), 128] for text in documents]).astype(np.int16)
    return TokenStream(ids, np.cumsum([len(text) + 1 for text in documents]))


def epoch_of(windows, epoch, seed=0):
    return [read(row) for row in windows.read_epoch(torch.arange(len(windows)), seed, epoch)]


DOCUMENTS = ["abcdefghij", "kl", "mnopqrs", "", "tuvwxyzABCDEFGHI"]
STREAM = "abcdefghij|kl|mnopqrs||tuvwxyzABCDEFGHI|"


def test_packed_windows_without_offset():
    windows = PackedWindows(stream_of(*DOCUMENTS), 6, 129)
    assert len(windows) == 7
    assert windows.num_padding == 2
    assert "".join(epoch_of(windows, 3)) == STREAM + "__"
    ids, labels = windows.read_batch(torch.tensor([6, 0]))
    assert [read(row) for row in ids] == [STREAM[36:] + "__", "abcdef"]
    assert ids.dtype == labels.dtype == torch.int64
    assert labels.tolist() == [0, 0]
    assert read(windows[1][0]) == "ghij|k"


def test_packed_windows_enter_the_ring_elsewhere_each_epoch():
    windows = PackedWindows(stream_of(*DOCUMENTS), 6, 129, random_offset=True)
    assert windows.num_padding == 0
    starts = set()
    for epoch in range(30):
        text = "".join(epoch_of(windows, epoch))
        starts.add((STREAM + STREAM).index(text[:40]))
        assert text[40:] == text[:2]  # fewer than a window are seen twice
    assert len(starts) > 15
    assert epoch_of(windows, 7) == epoch_of(windows, 7)
    assert epoch_of(windows, 7) != epoch_of(windows, 7, seed=1)
    # At rest it is the same every time.
    assert read(windows[0][0]) == "abcdef"


def test_a_stream_shorter_than_a_window_is_not_shifted():
    windows = PackedWindows(stream_of("abc"), 6, 129, random_offset=True)
    assert epoch_of(windows, 1) == epoch_of(windows, 2) == ["abc|__"]
    assert windows.num_padding == 2
    exact = PackedWindows(stream_of("abcde"), 6, 129, random_offset=True)
    assert len({epoch_of(exact, epoch)[0] for epoch in range(20)}) > 2


def test_document_windows():
    windows = DocumentWindows(stream_of(*DOCUMENTS), 6, 129)
    expected = ["abcdef", "ghij|_", "kl|___", "mnopqr", "s|____", "|_____", "tuvwxy", "zABCDE", "FGHI|_"]
    assert epoch_of(windows, 0) == epoch_of(windows, 5) == expected
    assert len(windows) == 9
    assert windows.num_split == 3
    assert windows.num_padding == "".join(expected).count("_") == 14


def test_document_windows_move_inside_each_document():
    windows = DocumentWindows(stream_of(*DOCUMENTS, "abcdefghijk"), 6, 129, random_offset=True)
    seen = set()
    for epoch in range(40):
        found = epoch_of(windows, epoch)
        # Every token once an epoch, and no window across two documents.
        text = [row.replace("_", "") for row in found]
        assert ["".join(text[a:b]) for a, b in ((0, 2), (2, 3), (3, 5), (5, 6), (6, 9))] == [d + "|" for d in DOCUMENTS]
        assert all(row == row.replace("_", "").ljust(6, "_") for row in found)
        assert found[9:] == ["abcdef", "ghijk|"]  # no room to move
        seen.add((found[0], found[3], found[6]))
    assert len({first for first, *_ in seen}) == 2
    assert len({third for *_, third in seen}) == 2
    assert {second for _, second, _ in seen} == {"mnopqr"[:n].ljust(6, "_") for n in (2, 3, 4, 5, 6)}
    # Documents with equal room move independently of each other.
    assert len({(first, third) for first, _, third in seen}) == 4


def test_epoch_windows_take_the_keys_of_a_sampler():
    windows = PackedWindows(stream_of(*DOCUMENTS), 6, 129, random_offset=True)
    data = EpochWindows(windows, seed=3)
    batch = data.__getitems__([(4, 2), (4, 0)])
    assert [read(row) for row in batch.images] == [epoch_of(windows, 4, 3)[i] for i in (2, 0)]
    assert batch.epoch == 4
    assert batch.index.tolist() == [2, 0]
    image, label, index, epoch = data[(4, 2)]
    assert (read(image), label, index, epoch) == (epoch_of(windows, 4, 3)[2], 0, 2, 4)
    assert data.__getitems__([1]).epoch == 0
    assert len(data) == 7
