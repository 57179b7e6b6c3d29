"""Shards against the folder they were made from: the same pixels, batches and order; damage is found and named."""

import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from torchvision import datasets, transforms

from jitflow.apps.images.data import JiTDataModule
from jitflow.apps.images.prepare import prepare
from jitflow.apps.images.shard_record import verify_shard
from jitflow.apps.images.shard_writer import images_per_shard, shard_ranges
from jitflow.apps.images.shards import MirroredImages, ShardImages, is_shard_folder, open_shard_folder
from jitflow.data.crop import center_crop_arr
from jitflow.data.seeded import SeededDataset
from jitflow.errors import ConfigError, DataError

SIDE = 24


def photo(seed, size):
    """Smooth colours with some noise, so that JPEG's colour sampling matters."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    return Image.fromarray(
        np.clip(np.asarray(coarse) + rng.normal(0, 8, (size[1], size[0], 3)), 0, 255).astype(np.uint8)
    )


def write_every_kind(root):
    """One file of every kind that data sets are made of, in two classes."""
    turned = Image.Exif()
    turned[0x0112] = 6
    sixteen = np.random.default_rng(9).integers(0, 1 << 16, (40, 33), np.uint16)
    clear = photo(8, (50, 31)).convert("RGBA")
    clear.putalpha(100)
    files = {
        "a/420.jpg": (photo(0, (97, 61)), {"quality": 92, "subsampling": 2}),
        "a/444.JPEG": (photo(1, (60, 101)), {"quality": 95, "subsampling": 0}),
        "a/grey.jpg": (photo(2, (55, 49)).convert("L"), {}),
        "a/cmyk.jpg": (photo(3, (80, 80)).convert("CMYK"), {}),
        "a/turned.jpg": (photo(4, (70, 40)), {"exif": turned}),
        "a/small.png": (photo(5, (9, 13)), {}),
        "b/rgb.png": (photo(6, (48, 24)), {}),
        "b/palette.png": (photo(7, (64, 63)).quantize(16), {}),
        "b/alpha.png": (clear, {}),
        "b/sixteen.png": (Image.fromarray(sixteen), {}),
        "b/long.png": (photo(10, (500, 26)), {}),
        "b/exact.bmp": (photo(11, (SIDE, SIDE)), {}),
        "b/progressive.jpg": (photo(12, (200, 151)), {"progressive": True}),
    }
    for name, (image, options) in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, **options)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("source")
    write_every_kind(root / "train")
    for label, name in enumerate("ab"):
        for i in range(3):
            path = root / "val" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            photo(100 + 10 * label + i, (30, 40)).save(path)
    return root


@pytest.fixture(scope="module")
def shards(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared") / "out"
    prepare(source, out, img_size=SIDE, workers=1, shard_images=5)
    return out


def data(path, **options):
    return JiTDataModule(str(path), **{"img_size": SIDE, "batch_size": 4, "num_workers": 0, "seed": 3, **options})


@pytest.mark.parametrize(("channels", "size"), [(3, SIDE), (1, SIDE), (3, (16, 40))])
def test_pixels_are_those_of_the_crop_for_every_kind_of_file(source, tmp_path, channels, size):
    prepare(source, tmp_path / "out", img_size=size, channels=channels, workers=1, shard_images=5)
    images = ShardImages(open_shard_folder(tmp_path / "out"), "train")
    files = datasets.ImageFolder(source / "train")
    assert len(images) == len(files) == 13
    assert images.classes == files.classes
    for index, (path, label) in enumerate(files.samples):
        with Image.open(path) as opened:
            if opened.mode.startswith("I"):
                eight = np.round(np.asarray(opened) / 65535 * 255).astype(np.uint8)
                opened = Image.fromarray(eight)
            plain = opened.convert("RGB" if channels == 3 else "L")
        expected = transforms.PILToTensor()(center_crop_arr(plain, size))
        image, found = images[index]
        assert found == label
        assert torch.equal(image, expected), path


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("options", [{}, {"random_flip": False}, {"class_balanced": True}, {"drop_last": False}])
def test_batches_are_those_of_the_folder(source, shards, workers, options):
    def epochs(path):
        module = data(path, num_workers=workers, **options)
        loader = module.train_dataloader()
        seen = []
        for epoch in range(3):
            module.set_epoch(epoch)
            seen += [(b.epoch, b.index.tolist(), b.labels, b.images) for b in loader]
        return seen

    ours, theirs = epochs(shards), epochs(source)
    assert len(ours) == len(theirs) == (12 if options.get("drop_last") is False else 9)
    for (epoch, index, labels, images), (*place, their_labels, their_images) in zip(ours, theirs, strict=True):
        assert [epoch, index] == place
        assert torch.equal(labels, their_labels)
        assert torch.equal(images, their_images)
        assert images.dtype == torch.uint8
        assert images.is_contiguous()


def test_validation_and_info_are_those_of_the_folder(source, shards):
    ours, theirs = data(shards), data(source)
    assert ours.get_dataset_info() == theirs.get_dataset_info()
    for mine, other in zip(ours.val_dataloader(), theirs.val_dataloader(), strict=True):
        assert torch.equal(mine.images, other.images)
        assert torch.equal(mine.labels, other.labels)
    alone = data(shards)
    alone.setup("validate")
    assert alone.dataset_train is None
    assert len(alone.dataset_val) == 6


def test_held_out_parts_are_those_of_the_folder(source, tmp_path):
    prepare(source / "train", tmp_path / "out", img_size=SIDE, workers=1)
    ours, theirs = (data(path, val_fraction=0.3, random_flip=False) for path in (tmp_path / "out", source / "train"))
    assert ours.get_dataset_info() == theirs.get_dataset_info()
    assert ours.get_dataset_info()["num_val_samples"] == 4
    for split in ("dataset_train", "dataset_val"):
        mine, other = getattr(ours, split), getattr(theirs, split)
        for index in range(len(other)):
            assert torch.equal(mine[index][0], other[index][0])
            assert mine[index][1] == other[index][1]


class Jittered(JiTDataModule):
    def _get_train_transforms(self):
        crop = transforms.Lambda(lambda image: center_crop_arr(image, self.img_size))
        return transforms.Compose([crop, transforms.ColorJitter(0.4, 0.4), transforms.PILToTensor()])


@pytest.mark.parametrize("channels", [1, 3])
def test_own_transforms_work_on_shards(source, tmp_path, channels):
    prepare(source, tmp_path / "out", img_size=SIDE, channels=channels, workers=1)
    loaders = [
        Jittered(str(path), SIDE, 4, 0, seed=1, channels=channels).train_dataloader()
        for path in (source, tmp_path / "out")
    ]
    for theirs, ours in zip(*loaders, strict=True):
        assert torch.equal(ours.images, theirs.images)


def test_whole_batches_equal_single_samples_across_shards(shards):
    images = ShardImages(open_shard_folder(shards), "train")
    seeded = SeededDataset(MirroredImages(images), 5)
    keys = [(epoch, index) for epoch in range(4) for index in (12, 0, 4, 5, 9, 10, 5)]
    fast = [seeded.__getitems__(keys[i : i + 7]) for i in range(0, 28, 7)]
    slow = [seeded[key] for key in keys]
    together = torch.cat([batch.images for batch in fast])
    assert torch.equal(together, torch.stack([image for image, *_ in slow]))
    assert torch.cat([batch.labels for batch in fast]).tolist() == [label for _, label, *_ in slow]
    raw = images.read_batch(torch.tensor([index for _, index in keys]))[0]
    mirrored = [not torch.equal(a, b) for a, b in zip(together, raw, strict=True)]
    assert 5 < sum(mirrored) < 23


def test_other_processes_map_for_themselves(shards):
    images = ShardImages(open_shard_folder(shards), "train")
    sent = pickle.dumps(images)
    assert len(sent) < 10_000
    assert torch.equal(pickle.loads(sent)[12][0], images[12][0])


def test_a_batch_does_not_write_into_the_file(shards):
    images = ShardImages(open_shard_folder(shards), "train")
    before = images[0][0].clone()
    images.read_batch(torch.tensor([0]))[0].zero_()
    assert torch.equal(images[0][0], before)


def test_names_of_the_sources_are_kept(source, shards):
    names, labels = [], []
    for record in open_shard_folder(shards).splits["train"]:
        arrays = load_file(shards / record.file)
        ends = arrays["name_ends"].tolist()
        text = arrays["name_bytes"].tobytes().decode()
        names += [text[a:b] for a, b in zip([0, *ends], ends, strict=False)]
        labels += arrays["labels"].tolist()
        assert len(ends) == record.num_images == len(arrays["images"])
    folder = datasets.ImageFolder(source / "train")
    assert [f"{source}/train/{name}" for name in names] == [path for path, _ in folder.samples]
    assert labels == folder.targets


def test_size_of_a_shard():
    assert images_per_shard(256, 3) == (512 << 20) // (256 * 256 * 3)
    assert images_per_shard(64, 3) == 4096
    assert images_per_shard((20000, 20000), 3) == 1
    ranges = shard_ranges("val", 11, 5)
    assert [name for name, _ in ranges] == [f"val-0000{i}-of-00003.safetensors" for i in range(3)]
    assert [i for _, places in ranges for i in places] == list(range(11))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"img_size": 16}, f"prepared as {SIDE} x {SIDE} px .* has img_size 16 x 16"),
        ({"channels": 1}, "with 3 channels, .* channels=1"),
    ],
)
def test_another_size_is_an_error(shards, options, says):
    with pytest.raises(ConfigError, match=says):
        data(shards, **options).setup("fit")


@pytest.fixture
def copy(shards, tmp_path):
    import shutil

    return shutil.copytree(shards, tmp_path / "copy")


def first_shard(folder):
    return sorted(folder.glob("train-*.safetensors"))[0]


@pytest.mark.parametrize("place", [0.0, 0.3, 0.999])
def test_a_flipped_bit_is_found_and_the_shard_named(copy, place):
    folder = open_shard_folder(copy)
    assert [verify_shard(copy, record, lambda: None) for record in folder.splits["train"]] == [None] * 3
    path = first_shard(copy)
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 4
    path.write_bytes(content)
    problems = [verify_shard(copy, record, lambda: None) for record in folder.splits["train"]]
    assert problems[1:] == [None, None]
    assert problems[0].startswith(f"{path} is damaged")


def test_missing_and_short_shards_are_named_when_opened(copy):
    path = first_shard(copy)
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(
        DataError, match=rf"{path.name} should have {len(content)} bytes and has {len(content) - 1};.*again"
    ):
        data(copy).setup("fit")
    path.unlink()
    with pytest.raises(DataError, match=rf"{path.name} is missing;.*again"):
        data(copy).prepare_data()


def test_a_shard_of_other_images_is_refused(copy, source, tmp_path):
    prepare(source, tmp_path / "grey", img_size=SIDE, channels=1, workers=1, shard_images=5)
    other, path = first_shard(tmp_path / "grey"), first_shard(copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    path.write_bytes(other.read_bytes())
    manifest["splits"]["train"]["shards"][0]["num_bytes"] = path.stat().st_size
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=f"{path.name} does not hold the images"):
        data(copy).setup("fit")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: "{", "not a manifest"),
        (lambda m: "[]", "not a manifest"),
        (lambda m: json.dumps({**m, "format": "else"}), "format 'else'"),
        (lambda m: json.dumps({**m, "version": 99}), "99"),
        (lambda m: json.dumps({k: v for k, v in m.items() if k != "splits"}), "not a manifest"),
        (lambda m: json.dumps({**m, "img_size": 3}), "not a manifest"),
        (lambda m: json.dumps({**m, "classes": ["a"]}), "labels without a class"),
    ],
)
def test_manifests_that_cannot_be_used(copy, change, says):
    path = copy / "manifest.json"
    path.write_text(change(json.loads(path.read_text())))
    with pytest.raises(DataError, match=says) as caught:
        data(copy).setup("fit")
    assert "\n" not in str(caught.value)


def test_unfinished_preparation_is_no_data_set(source, tmp_path):
    (tmp_path / "x" / ".unfinished").mkdir(parents=True)
    with pytest.raises(DataError, match=r"unfinished; .*jitflow data prepare"):
        data(tmp_path / "x").setup("fit")
    assert not is_shard_folder(source)
