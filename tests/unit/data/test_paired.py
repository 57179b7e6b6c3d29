"""Transport from one data set to another: pairs of images, and a training whose paths begin from the source."""

import pytest
import torch
from image_folders import make, write_image
from torch import nn

from jitflow.cli import main
from jitflow.codec.pixel import PixelCodec
from jitflow.core.condition import Condition
from jitflow.core.path import interpolate
from jitflow.data.batch import ImageBatch
from jitflow.errors import ConfigError, MissingFileError
from jitflow.model import Model, load
from jitflow.run.fit import fit
from jitflow.run.recipe import override, read_recipe
from jitflow.training.flow_settings import FlowSettings
from jitflow.training.module import FlowModule


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Eight images of two classes to go to, and five of one class to come from."""
    root = tmp_path_factory.mktemp("transport")
    for i in range(8):
        write_image(root / "target" / "train" / f"class{i % 2}" / f"{i}.png", seed=i)
    for i in range(5):
        write_image(root / "source" / "train" / "only" / f"{i}.png", seed=100 + i)
    return root


def pairs_of(folders, epoch=0, **options):
    data = make(folders / "target", source_path=str(folders / "source"), **options)
    data.setup("fit")
    data.set_epoch(epoch)
    found = {}
    for batch in data.train_dataloader():
        for i, image, source in zip(batch.index.tolist(), batch.images, batch.source, strict=True):
            found[i] = (tuple(image.flatten().tolist()), tuple(source.flatten().tolist()))
    return found


def test_a_pair_is_a_function_of_seed_epoch_and_index(folders):
    first = pairs_of(folders)
    assert len(first) == 8 and first == pairs_of(folders, batch_size=2)
    later, other = pairs_of(folders, epoch=1), pairs_of(folders, seed=1)
    for changed in (later, other):
        assert [pair[1] for _, pair in sorted(changed.items())] != [pair[1] for _, pair in sorted(first.items())]
    # The images to go to are those of a data set without a source.
    plain = make(folders / "target")
    plain.setup("fit")
    (batch, *_) = plain.train_dataloader()
    assert batch.source is None
    for i, image in zip(batch.index.tolist(), batch.images, strict=True):
        assert first[i][0] == tuple(image.flatten().tolist())


def test_the_images_of_the_source_are_all_used_and_are_its_own(folders):
    seen = {source for epoch in range(4) for _, source in pairs_of(folders, epoch, random_flip=False).values()}
    own = make(folders / "source", random_flip=False)
    own.setup("fit")
    assert seen == {tuple(own.dataset_train[i][0].flatten().tolist()) for i in range(5)}
    info = make(folders / "target", source_path=str(folders / "source")).get_dataset_info()
    assert info["transports"] and info["num_classes"] == 2
    assert "transports" not in make(folders / "target").get_dataset_info()
    with pytest.raises(MissingFileError, match="nowhere"):
        make(folders / "target", source_path="nowhere").prepare_data()


class Watching(nn.Module):
    """Predicts the target of the only pair, and keeps what it was shown."""

    def __init__(self):
        super().__init__()
        self.image = nn.Parameter(torch.zeros(3, 8, 8))

    def forward(self, x, t, y):
        self.seen = x.detach(), t
        return self.image.expand_as(x)


def test_a_path_begins_with_the_source_whatever_the_scale_of_noise():
    module = FlowModule(PixelCodec((8, 8)), Watching(), num_classes=2, settings=FlowSettings(noise_scale=2.0))
    g = torch.Generator().manual_seed(0)
    images, source = (torch.randint(0, 256, (4, 3, 8, 8), generator=g, dtype=torch.uint8) for _ in range(2))
    module.log = module.log_dict = lambda *args, **kwargs: None
    for step in (module.training_step, module.validation_step):
        step(ImageBatch(images, torch.zeros(4, dtype=torch.int64), torch.arange(4), source=source), 0)
        x_t, t = module.net.seen
        torch.testing.assert_close(x_t, interpolate(module.codec.encode(source), module.codec.encode(images), t))


@pytest.fixture(scope="module")
def trained(folders):
    settings = {
        "data": {"class_path": "jitflow.apps.images.data.JiTDataModule", "init_args": {}},
        "data.data_path": str(folders / "target"),
        "data.source_path": str(folders / "source"),
        "data.img_size": 8,
        "data.batch_size": 4,
        "data.num_workers": 0,
        "model.img_size": 8,
        "model.in_channels": 3,
        "model.num_classes": 2,
        "model.num_sampling_steps": 3,
        "model.net_settings": {"depth": 1, "hidden_size": 16, "num_heads": 2, "in_context_start": 0},
        "trainer.max_epochs": 1,
        "trainer.accelerator": "cpu",
    }
    return fit(override(read_recipe("images/digits"), settings), folders / "run").folder


def test_a_model_of_transport_carries_images_and_refuses_noise(trained, folders, capsys):
    model = load(trained, device="cpu")
    images = make(folders / "source", random_flip=False)
    images.setup("fit")
    pixels = torch.stack([images.dataset_train[i][0] for i in range(5)])
    carried = model.sample(labels=[1], source=pixels, steps=3, solver="euler")
    assert len(carried.pixels) == 5 and set(carried.labels) == {1}
    # Of three Euler steps the first starts at the source itself.
    module, states = model.module, []
    with module.ema_weights(), module.watch_sampling(lambda done, total, t, x: states.append(x)):
        labels = torch.ones(5, dtype=torch.int64)
        x0 = module.codec.encode(pixels)
        with module.sampling(num_sampling_steps=3, sampling_method="euler", cfg_scale=1.0):
            module.generate_condition(Condition(label=labels), use_ema=False, start=(x0, 0.0))
            expected = x0 + module._forward_sample(x0, torch.zeros(()), labels) / 3
    torch.testing.assert_close(states[0], expected)
    # Seeds do not matter, and a batch of any size gives the same.
    again = model.sample(labels=[1], source=pixels, steps=3, solver="euler", seeds=9, batch_size=2)
    assert (again.pixels.int() - carried.pixels.int()).abs().max() <= 1
    for given, said in (
        ({}, "source"),
        ({"source": pixels, "churn": 1.0, "solver": "euler"}, "churn"),
        ({"source": pixels, "num": 2}, "num"),
        ({"source": pixels, "labels": [0, 1]}, "labels"),
    ):
        with pytest.raises(ConfigError, match=said):
            model.sample(**given)
    words = ["sample", str(trained), "--out", str(folders / "drawn"), "--device", "cpu"]
    assert main([*words, "--source", str(folders / "source")]) == 0
    assert len(list((folders / "drawn").glob("0*.png"))) == 5
    assert main(words) == 1
    assert "source" in capsys.readouterr().err


def test_a_model_from_noise_takes_no_source():
    module = FlowModule(PixelCodec((8, 8)), Watching(), num_classes=2, settings=FlowSettings())
    with pytest.raises(ConfigError, match="source"):
        Model(module).sample(source=torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


def test_a_run_of_transport_goes_on_only_with_a_source(trained, folders):
    module = load(trained, device="cpu").module
    info = make(folders / "target").get_dataset_info()
    with pytest.raises(ConfigError, match="source_path"):
        module.check_data(info)
    module.check_data({**info, "transports": True})
