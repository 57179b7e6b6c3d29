"""A training that its data or settings rule out ends before a network is built, and leaves nothing behind."""

from pathlib import Path

import pytest
from image_folders import write_image
from tiny import TEXT, train_text, write_corpus, write_latents

from jitflow.cli import main
from jitflow.errors import CheckpointError, ConfigError, DataError, MissingFileError
from jitflow.run import fit as fit_module
from jitflow.run.fit import fit
from jitflow.run.recipe import override, read_recipe
from jitflow.verbs.documented import train_documented

NET = {"hidden_size": 16, "depth": 1, "num_heads": 2, "bottleneck_dim": 8, "in_context_start": 0}
IMAGES = {
    "model.model_name": "JiT-N/4",
    "model.img_size": 8,
    "model.num_classes": 2,
    "model.net_settings": NET,
    "data.img_size": 8,
    "data.num_workers": 0,
    "trainer.devices": 1,
    "trainer.accelerator": "cpu",
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Fail if the training gets as far as building its network with weights."""
    build_model = fit_module.build_model

    def build(*args, **kwargs):
        module = build_model(*args, **kwargs)
        assert all(p.is_meta for p in module.net.parameters()), "a network was built"
        return module

    monkeypatch.setattr(fit_module, "build_model", build)


@pytest.fixture
def pictures(tmp_path):
    """A folder of ten images of two classes."""
    for i in range(10):
        write_image(tmp_path / "pictures" / "train" / "ab"[i % 2] / f"{i}.png", i, size=(8, 8))
    return tmp_path / "pictures"


def train_images(pictures, run_dir, **settings):
    recipe = override(read_recipe("images/jit_b16_256"), {**IMAGES, "data.data_path": str(pictures), **settings})
    return fit(recipe, run_dir)


def train_few_texts(tmp_path, run_dir):
    corpus = write_corpus(tmp_path / "corpus")
    return train_text(corpus, run_dir, **{**TEXT, "batch_size": 5000}, settings={"data.drop_last": True})


def train_few_latents(tmp_path, run_dir):
    (tmp_path / "latents").mkdir()
    words = {"latent_dir": write_latents(tmp_path / "latents"), "batch_size": 50, "model": "LightningDiT-N/4"}
    settings = {
        "trainer.accelerator": "cpu",
        "model.net_settings": {"hidden_size": 16, "depth": 1, "num_heads": 2, "patch_size": 1},
    }
    return train_documented("microdoppler", words, run_dir, settings=settings)


def tree(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize("application", ["images", "text", "microdoppler"])
@pytest.mark.parametrize("was_there", [True, False])
def test_too_few_samples_leave_nothing_behind(application, was_there, tmp_path, pictures):
    run_dir = tmp_path / "runs" / "mine" / "first"
    if was_there:
        for name in ("notes.txt", "cache/kept", "csv/kept"):
            (run_dir / name).parent.mkdir(parents=True, exist_ok=True)
            (run_dir / name).write_text("mine")
    before = tree(tmp_path / "runs")
    with pytest.raises(DataError, match=r"batch_size .* or less"):
        if application == "images":
            train_images(pictures, run_dir)
        elif application == "text":
            train_few_texts(tmp_path, run_dir)
        else:
            train_few_latents(tmp_path, run_dir)
    if was_there and application == "text":
        # The user's folder of that name is the cache, whose files later trainings of the same text read.
        before |= {path: path.read_bytes() for path in (run_dir / "cache").iterdir()}
    assert tree(tmp_path / "runs") == before
    assert was_there or not (tmp_path / "runs").exists()


def test_the_command_line_advises_a_batch_that_fits(tmp_path, pictures, capsys):
    words = [f"--{name}={value}" for name, value in IMAGES.items() if name != "model.net_settings"]
    words += [f"--data.data_path={pictures}", f"--run_dir={tmp_path / 'run'}"]
    for further in ((), ("--dry_run",)):
        assert main(["train", "--config", "images/jit_b16_256", *words, *further]) == 1
        said = capsys.readouterr().err
        assert "lower batch_size to 10 or less" in said and "drop_last" not in said
        assert not (tmp_path / "run").exists()


def test_the_batch_of_every_process_counts(tmp_path, pictures):
    with pytest.raises(DataError, match="batch_size to 5 or less"):
        train_images(pictures, tmp_path / "run", **{"trainer.devices": 2, "data.batch_size": 8})
    with pytest.raises(DataError, match="fewer devices"):
        train_images(pictures, tmp_path / "run", **{"trainer.devices": 11, "data.batch_size": 1})


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"model.num_classes": 1}, ConfigError, "num_classes=2"),
        ({"data.img_size": 16}, ConfigError, "img_size"),
        ({"init_from": "nowhere.ckpt"}, MissingFileError, "nowhere"),
        ({"trainer.precision": "12"}, ConfigError, "trainer.*precision"),
        ({"model.label_drop_prob": 0.0, "model.cfg_scale": 2.0}, ConfigError, "label_drop_prob"),
        ({"checkpoint.best_name": "best.ckpt"}, ConfigError, "best_name"),
    ],
)
def test_what_data_and_settings_rule_out_is_said_first(settings, error, said, tmp_path, pictures):
    with pytest.raises(error, match=said):
        train_images(pictures, tmp_path / "run", **{"data.batch_size": 2, **settings})
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_that_does_not_fit_is_refused_first(tmp_path, pictures):
    small = Path(__file__).parents[1] / "data" / "checkpoints_7ea7bf0" / "images_recipe" / "checkpoints" / "last.ckpt"
    with pytest.raises(CheckpointError, match="do not fit the model"):
        train_images(pictures, tmp_path / "run", **{"data.batch_size": 2, "init_from": str(small)})
    assert not (tmp_path / "run").exists()
