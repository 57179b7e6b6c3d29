"""Real processes that share the shards of an epoch: each sample is seen once, by one of them."""

import multiprocessing
import sys

import numpy as np
import pytest
from PIL import Image

from jitflow.apps.images.data import JiTDataModule
from jitflow.apps.images.prepare import prepare

NUM_IMAGES = 48


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    root = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(0)
    for i in range(NUM_IMAGES):
        path = root / "source" / "abc"[i % 3] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(path)
    prepare(root / "source", root / "out", img_size=8, workers=1, shard_images=7)
    return root / "out"


def read(path, num_replicas, rank, workers, queue):
    data = JiTDataModule(str(path), 8, 12 // num_replicas, workers, num_replicas=num_replicas, rank=rank, seed=4)
    loader = data.train_dataloader()
    seen = []
    for epoch in range(2):
        data.set_epoch(epoch)
        for step, batch in enumerate(loader):
            sums = batch.images.flatten(1).sum(1).tolist()
            seen += [
                (epoch, step, i, s, y)
                for i, s, y in zip(batch.index.tolist(), sums, batch.labels.tolist(), strict=True)
            ]
    queue.put(seen)


def run(path, num_replicas, workers):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [
        context.Process(target=read, args=(path, num_replicas, r, workers, queue)) for r in range(num_replicas)
    ]
    for process in processes:
        process.start()
    shares = [queue.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * num_replicas
    return shares


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
@pytest.mark.parametrize(("num_replicas", "workers"), [(2, 0), (2, 1), (4, 0)])
def test_each_sample_once_and_every_step_the_same(shards, num_replicas, workers):
    (alone,) = run(shards, 1, 0)
    shares = run(shards, num_replicas, workers)
    together = sorted(sample for share in shares for sample in share)
    assert {len(share) for share in shares} == {2 * NUM_IMAGES // num_replicas}
    for epoch in range(2):
        assert sorted(i for e, _, i, _, _ in together if e == epoch) == list(range(NUM_IMAGES))
    # Sums of the pixels and labels as well: the samples themselves are right.
    assert together == sorted(alone)
