"""One ``Model.sample`` for every application: what is asked, what comes back, what is refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import jitflow
from jitflow.apps.images.module import JiTLightningModule
from jitflow.apps.microdoppler.module import UserConditionedDiT
from jitflow.apps.microdoppler.sampling import UserSamples
from jitflow.apps.text.module import TextLightningModule
from jitflow.apps.text.sampling import TextSamples
from jitflow.codec.linear import LinearCodec
from jitflow.core.condition import Condition
from jitflow.core.path import interpolate
from jitflow.core.seeding import noise_from_seeds, use_seeds
from jitflow.errors import CheckpointError, ConfigError, DataError
from jitflow.model import Model
from jitflow.training.asked import parse_labels, parse_numbers

DIT = {"patch_size": 1, "hidden_size": 32, "depth": 1, "num_heads": 2, "use_rope": True, "use_rmsnorm": True}
NET = {"hidden_size": 32, "depth": 1, "num_heads": 2, "bottleneck_dim": 16}


def shaken(module):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    module.ema_params1.update({name: 0.9 * p.detach() for name, p in module.named_parameters()})
    return module.eval()


def make_images(cls=JiTLightningModule, **settings):
    torch.manual_seed(0)
    return shaken(cls("JiT-N/4", img_size=8, num_classes=3, num_sampling_steps=3, **settings))


def make_text(cls=TextLightningModule, **settings):
    torch.manual_seed(0)
    return shaken(cls("bytes", img_size=16, net_settings=NET, num_sampling_steps=5, **settings))


def make_linear():
    pictures = torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return LinearCodec.fit([pictures], num_components=4, patch_size=4)


def make_users(linear=None):
    torch.manual_seed(0)
    module = UserConditionedDiT(
        num_users=3, model_name="LightningDiT", latent_shape=(4, 2, 2), net_settings=DIT, num_sampling_steps=3
    )
    made_by = linear or make_linear()
    module.user_ids = [1, 4, 17]
    module.codec_record = {"id": made_by.id, "checksum": made_by.checksum, "img_size": [8, 8]}
    module.latents.expected_id, module.latents.expected_checksum = made_by.id, made_by.checksum
    if linear is not None:
        module.latents.attach(linear)
    return shaken(module)


def saved(module, path):
    checkpoint = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)
    return path


@pytest.fixture(scope="module")
def images():
    return Model(make_images())


@pytest.fixture(scope="module")
def text():
    return Model(make_text())


@pytest.fixture(scope="module")
def users():
    return Model(make_users(make_linear()))


def test_labels_in_every_form_mean_the_same(images):
    expected = images.sample([0, 1, 1, 3], 5)
    assert expected.names == ["class0", "class1", "class1", "class3"]
    assert expected.captions == ["class 0", "class 1", "class 1", "any class"]
    for labels in (torch.tensor([0, 1, 1, 3]), (0, 1, 1, 3), "0,1,1,3"):
        assert torch.equal(images.sample(labels, 5).pixels, expected.pixels)
    assert images.sample().labels == images.sample("all").labels == [0, 1, 2]
    twice = images.sample([2, 0], num=2, seeds=[3, 4, 5, 6])
    assert twice.labels == [2, 2, 0, 0]
    assert torch.equal(twice.pixels, images.sample([2, 2, 0, 0], [3, 4, 5, 6]).pixels)


def test_batches_are_cut_from_one_condition(text):
    """Prompts of each sample and one for all, with and without room for all in a batch."""
    prompts = ["a", "bcd", "", "ef"]
    together = text.sample(prompt=prompts, seeds=7)
    apart = text.sample(prompt=prompts, seeds=7, batch_size=3)
    assert together.texts == apart.texts and together.seeds == apart.seeds == [7, 8, 9, 10]
    assert (together.states - apart.states).abs().max() < 1e-4
    for prompt, written in zip(prompts, together.texts, strict=True):
        assert written.startswith(prompt)
    alone = text.sample(prompt="bcd", seeds=8)
    assert torch.equal(alone.ids[0], together.ids[1]) and alone.settings["prompt"] == "bcd"
    assert text.sample(prompt="bcd", num=3, batch_size=2).texts[0].startswith("bcd")
    assert text.sample(prompt="").settings["prompt"] == ""


def test_texts_come_back_from_the_noise_that_the_seeds_name(text):
    module, words = text.module, ["all of a t", "and"]
    back = text.sample(texts=words, start_time=0.4, seeds=5)
    assert isinstance(back, TextSamples) and back.settings["start_time"] == 0.4
    rows = [(list(word.encode()) + [module.tokenizer.end_id] + [module.tokenizer.pad_id] * 16)[:16] for word in words]
    noise = noise_from_seeds(module.codec.shape, [5, 6])
    start = interpolate(noise, module.colours.encode(torch.tensor(rows)), torch.full((2,), 0.4))
    with module.ema_weights(), use_seeds([5, 6]):
        expected = module.generate_condition(
            Condition(label=torch.zeros(2, dtype=torch.int64)), use_ema=False, start=(start, 0.4)
        )
    assert torch.equal(back.states, expected)
    assert torch.equal(text.sample(texts=torch.tensor(rows), start_time=0.4, seeds=5).states, expected)
    from_noise = text.sample(texts=words, start_time=0.0, seeds=5)
    assert torch.equal(from_noise.states, text.sample(num=2, seeds=5).states)
    assert len(text.sample(texts=words, start_time=0.4, num=2)) == 4


def test_users_by_their_own_numbers(users):
    drawn = users.sample(users=[17, 1], num=2, seeds=3)
    assert isinstance(drawn, UserSamples) and drawn.labels == [2, 2, 0, 0]
    assert drawn.names == ["user17", "user17", "user01", "user01"] and drawn.captions[0] == "user 17"
    for words in ({"users": "17,17,1-1,1"}, {"labels": [2, 2, 0, 0]}, {"labels": "2,2,0,0"}):
        assert torch.equal(users.sample(**words, seeds=3).pixels, drawn.pixels)
    assert users.sample().captions == ["user 1", "user 4", "user 17"]
    assert users.sample([3]).names == ["any"]
    assert users.ask(users="user17,1").labels == users.ask(users=[17, "user01"]).labels == [2, 0]


@pytest.mark.parametrize("grid", [[17, 17, 1, 1], [17, 1, 1], [4]])
def test_spectrograms_are_saved_under_the_documented_names(users, tmp_path, grid):
    (tmp_path / "micro_doppler_user09_001.png").touch()
    (tmp_path / "mine.png").touch()
    users.sample(users=grid).save(tmp_path, asked={"user_ids": [1]})
    record = json.loads((tmp_path / "generation.json").read_text())
    counts = dict.fromkeys(grid, 0)
    for user, image in zip(grid, record["images"], strict=True):
        counts[user] += 1
        assert image["file"] == f"micro_doppler_user{user:02d}_{counts[user]:03d}.png" and image["user"] == user
        assert (tmp_path / image["file"]).stat().st_size
    assert record["asked"] == {"user_ids": [1]} and (tmp_path / "micro_doppler_grid.png").stat().st_size
    assert (tmp_path / "mine.png").exists() and not (tmp_path / "micro_doppler_user09_001.png").exists()


def test_files_of_images_and_texts(images, text, tmp_path):
    drawn = images.sample([1, 3], [8, 9])
    assert drawn.save(tmp_path / "a") == tmp_path / "a"
    assert {p.name for p in (tmp_path / "a").iterdir()} == {
        *("000000_class1_seed8.png", "000001_class3_seed9.png", "grid.png", "settings.json")
    }
    record = json.loads((tmp_path / "a" / "settings.json").read_text())
    assert record["images"][1] == {"file": "000001_class3_seed9.png", "label": 3, "seed": 9}
    shown = np.array(Image.open(tmp_path / "a" / "000001_class3_seed9.png")).transpose(2, 0, 1)
    assert np.array_equal(shown, drawn.pixels[1].numpy())
    written = text.sample(num=2, seeds=4)
    written.save(tmp_path / "b")
    assert {p.name for p in (tmp_path / "b").iterdir()} == {
        *("000000_seed4.png", "000001_seed5.png", "grid.png", "samples.json", "samples.txt")
    }
    record = json.loads((tmp_path / "b" / "samples.json").read_text())
    assert [sample["text"] for sample in record["samples"]] == written.texts
    assert record["settings"]["tokenizer"] == "bytes" and record["settings"]["churn"] == 0


@pytest.mark.parametrize("make", [make_images, make_text])
def test_an_overridden_generate_is_what_draws(make):
    calls = []
    plain = make()

    def generate(self, labels, use_ema=True):
        calls.append(labels.tolist())
        return super(own, self).generate(labels, use_ema)

    own = type("Own", (type(plain),), {"generate": generate})
    drawn = Model(make(own)).sample(num=2, seeds=1)
    assert calls == [[int(y) for y in drawn.labels]]
    assert torch.equal(drawn.pixels, Model(plain).sample(num=2, seeds=1).pixels)


def test_a_class_of_a_user_s_own_takes_labels_and_gives_pixels(tmp_path):
    class Mine(JiTLightningModule):
        application = ""

    path = saved(make_images(), tmp_path / "a.ckpt")
    mine = jitflow.load(path, device="cpu", module_class=Mine)
    assert torch.equal(mine.sample([0, 2], 1).pixels, jitflow.load(path, device="cpu").sample([0, 2], 1).pixels)
    with pytest.raises(ConfigError, match="'users' means nothing to a model of Mine"):
        mine.sample(users=[1])
    with pytest.raises(CheckpointError, match="not a model of text"):
        jitflow.load(path, device="cpu", application="text")


def test_a_codec_that_is_not_in_the_checkpoint(tmp_path):
    linear = make_linear()
    inside = jitflow.load(saved(make_users(linear), tmp_path / "a.ckpt"), device="cpu")
    expected = inside.sample(users=[4], seeds=2).pixels
    without = saved(make_users(), tmp_path / "b.ckpt")
    with pytest.raises(ConfigError, match="--vavae_path"):
        jitflow.load(without, device="cpu").sample(users=[4])
    linear.export(tmp_path / "linear.safetensors")
    model = jitflow.load(without, device="cpu", vavae_path=tmp_path / "linear.safetensors")
    assert torch.equal(model.sample(users=[4], seeds=2).pixels, expected)
    with pytest.raises(ConfigError, match="no latents"):
        jitflow.load(
            saved(make_images(), tmp_path / "c.ckpt"), device="cpu", vavae_path=tmp_path / "linear.safetensors"
        )


@pytest.mark.parametrize(
    ("kind", "words", "said"),
    [
        ("images", {"labels": []}, "labels is empty"),
        ("images", {"labels": [4]}, "label 4"),
        ("images", {"labels": "0-999999999999"}, "classes 0 to 2"),
        ("images", {"labels": [0, 1], "seeds": [1]}, "1 seeds were given for 2"),
        ("images", {"num": 0}, "num"),
        ("images", {"num": 1.5}, "num"),
        ("images", {"guidence": 2.0}, "'guidence' means nothing"),
        ("images", {"prompt": "a"}, "accepts labels, num"),
        ("images", {"ema": 2}, "no EMA 2"),
        ("images", {"ema": 0.1}, "ema_snapshots"),
        ("images", {"batch_size": 0}, "batch_size"),
        ("images", {"precision": "8"}, "precision"),
        ("images", {"temperature": 0.5}, "temperature"),
        ("images", {"churn": 1.0, "solver": "multistep"}, "multistep"),
        ("text", {"labels": [0]}, "accepts num, prompt"),
        ("text", {"prompt": "x" * 16}, "at most 15"),
        ("text", {"prompt": []}, "prompt is empty"),
        ("text", {"texts": ["x" * 16], "start_time": 0.5}, "17 tokens with its end"),
        ("text", {"texts": [], "start_time": 0.5}, "texts is empty"),
        ("text", {"texts": ["a"], "start_time": 1.0}, r"\[0, 1\)"),
        ("text", {"texts": ["a"]}, "start_time"),
        ("text", {"start_time": 0.3}, "start_time"),
        ("text", {"texts": ["a"], "start_time": 0.3, "prompt": "b"}, "one of them"),
        ("text", {"guidance": 2.0}, "label_drop_prob"),
        ("text", {"temperature": 0.0}, "temperature"),
        ("users", {"users": [2]}, "no user 2"),
        ("users", {"users": "1-4"}, "no user 2"),
        ("users", {"users": "1-999999999999"}, "no user 999999999999"),
        ("users", {"users": "x"}, "unknown name in users 'x'"),
        ("users", {"users": ["user71"]}, "did you mean user17"),
        ("users", {"users": "1-"}, "users must look like"),
        ("users", {"users": []}, "users is empty"),
        ("users", {"users": [1], "labels": [0]}, "one of them"),
        ("users", {"prompt": "a"}, "accepts users, labels, num"),
    ],
)
def test_what_cannot_be_asked(request, kind, words, said):
    with pytest.raises(ConfigError, match=said):
        request.getfixturevalue(kind).sample(**words)


def test_a_model_that_has_diverged_says_so():
    module = make_images()
    with torch.no_grad():
        next(module.net.parameters()).fill_(float("nan"))
    with pytest.raises(DataError, match="2 of 2 samples hold NaN"):
        Model(module).sample([0, 1], ema=0)


def test_without_an_average_the_weights_and_a_line(caplog):
    module = make_images()
    module.ema_params1 = {}
    drawn = Model(module).sample([0])
    assert drawn.settings["ema"] == 0 and "no EMA" in caplog.text
    with pytest.raises(ConfigError, match="no EMA 1"):
        Model(module).sample([0], ema=1)


def test_numbers_are_read_without_being_counted():
    assert parse_labels("0,3,7-9", 10) == [0, 3, 7, 8, 9]
    assert [len(run) for run in parse_numbers("1,5-4", what="users")] == [1, 0]
    for wrong in ("", "a", "1-", "-1", "1,,2"):
        with pytest.raises(ConfigError, match="users must look like"):
            parse_numbers(wrong, what="users")
    with pytest.raises(ConfigError, match="classes 0 to 9"):
        parse_labels("5-4", 10)
