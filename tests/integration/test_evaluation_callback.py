"""Evaluation and sample grids during a training; also the script that two processes run."""

from __future__ import annotations

import json
import logging
import os
import random
import subprocess
import sys
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image

from jitflow.apps.images.module import JiTLightningModule
from jitflow.callbacks import evaluation
from jitflow.callbacks.ema import EMACallback
from jitflow.callbacks.evaluation import FIDEvaluationCallback
from jitflow.callbacks.samples import SampleGridCallback, undisturbed
from jitflow.core.seeding import current_seeds, noise_from_seeds, use_seeds
from jitflow.data.digits import DigitsDataModule
from jitflow.errors import ConfigError, DataError, MissingFileError
from jitflow.evaluation.features import Features, PixelExtractor
from jitflow.evaluation.frechet import frechet_distance, save_statistics
from jitflow.evaluation.moments import Moments

ROOT = Path(__file__).parents[2]
NUM_CLASSES = 5


class Classifying(PixelExtractor):
    """Pixels and logits that depend on them, and a memory of what was asked of it."""

    def __init__(self, side=4):
        super().__init__(side)
        self.images, self.devices = [], []

    def __call__(self, images):
        self.images.append(images)
        features, _ = super().__call__(images)
        return Features(features, 20 * features[:, :6])

    def to(self, device):
        self.devices.append(str(device))
        return self


def make_module(cls=JiTLightningModule, **settings):
    torch.manual_seed(0)
    module = cls("JiT-N/4", 16, 10, in_channels=1, num_sampling_steps=2, **{"learning_rate": 1e-3, **settings})
    with torch.no_grad():
        for p in module.parameters():
            if p.requires_grad:
                p.add_(0.05 * torch.randn_like(p))
    return module


def reference(extractor):
    data = DigitsDataModule()
    data.setup()
    moments = Moments(extractor.dim)
    moments.update(extractor(data.dataset_train.images).features)
    return moments.mean, moments.covariance


def make_callback(cls=FIDEvaluationCallback, *, eval_freq=1, num_images=45, batch_size=16, **settings):
    extractor = settings.pop("extractor", None) or Classifying()
    settings = {"reference": reference(extractor), **settings}
    extractor.__init__()
    return cls(eval_freq, num_images, batch_size, NUM_CLASSES, 16, extractor=extractor, **settings)


def fit(module, *callbacks, epochs=1, **settings):
    defaults = {
        "max_epochs": epochs,
        "limit_train_batches": 2,
        "limit_val_batches": 0,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = pl.Trainer(callbacks=[EMACallback(), *callbacks], **{**defaults, **settings})
    trainer.fit(module, datamodule=DigitsDataModule(batch_size=32, seed=0))
    return trainer


def logged_rows(folder):
    header, *rows = (folder / "metrics.csv").read_text().splitlines()
    return [dict(zip(header.split(","), row.split(","), strict=True)) for row in rows]


# Few images for so many dimensions is what these tests want.
pytestmark = pytest.mark.filterwarnings("ignore:num_images")


def test_metrics_are_logged_kept_and_right(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(evaluation, "LINE_EVERY_SEC", 0)
    module, callback = make_module(), make_callback()
    with caplog.at_level(logging.INFO, "jitflow"):
        trainer = fit(module, callback, logger=CSVLogger(tmp_path, name="", version=""), log_every_n_steps=1)
    assert set(callback.metrics) == {"eval/fid", "eval/is"}
    assert 1 <= callback.metrics["eval/is"] <= 6
    for name, value in callback.metrics.items():
        assert float(trainer.callback_metrics[name]) == pytest.approx(value, rel=1e-6)
        logged = [float(row[name]) for row in logged_rows(tmp_path) if row.get(name)]
        assert logged == [pytest.approx(value, rel=1e-6)]
    lines = [record.getMessage() for record in caplog.records if record.name == "jitflow.callbacks.evaluation"]
    assert [line.split(" images  ")[0] for line in lines[:3]] == [f"evaluation: {n}/45" for n in (16, 32, 45)]
    assert all("images/s  ETA 0:0" in line for line in lines[:3])
    assert lines[3].startswith("evaluation after 1 epochs (0:0") and "eval/fid" in lines[3] and len(lines) == 4

    images = torch.cat(callback.extractor.images)
    assert images.shape == (45, 1, 16, 16) and callback.extractor.devices == ["cpu", "cpu"]
    features = PixelExtractor(4)(images).features.double()
    expected = frechet_distance(features.mean(dim=0), torch.cov(features.T), *callback.reference)
    assert callback.metrics["eval/fid"] == pytest.approx(expected, rel=1e-6)
    # The images are those that the averages draw for balanced labels and the seeds 0, 1, ...
    with use_seeds(range(45)):
        samples = module.generate(torch.arange(45) % NUM_CLASSES)
    assert (module.codec.decode(samples).int() - images.int()).abs().max() <= 1


def test_the_raw_weights_are_used_on_request():
    found = {}
    for use_ema in (True, False):
        callback = make_callback(use_ema=use_ema)
        fit(make_module(learning_rate=0.1), callback)
        found[use_ema] = callback.metrics["eval/fid"]
    assert found[True] != pytest.approx(found[False], rel=1e-3)


def test_the_batch_size_does_not_matter():
    found = []
    for batch_size in (7, 64):
        callback = make_callback(batch_size=batch_size)
        fit(make_module(), callback)
        found.append(callback.metrics)
    assert found[0] == pytest.approx(found[1], rel=1e-3)


def test_an_override_may_add_to_the_metrics():
    epochs = []

    class Custom(FIDEvaluationCallback):
        def _evaluate(self, trainer, pl_module, epoch):
            metrics = super()._evaluate(trainer, pl_module, epoch)
            epochs.append(epoch)
            metrics["eval/mine"] = torch.tensor(0.25)
            return metrics

    callback = make_callback(Custom)
    trainer = fit(make_module(), callback, epochs=2)
    assert epochs == [0, 1]
    assert callback.metrics["eval/mine"] == 0.25 and "eval/fid" in callback.metrics
    assert float(trainer.callback_metrics["eval/mine"]) == 0.25


def test_an_overridden_generate_counts():
    class Black(JiTLightningModule):
        def generate(self, labels, use_ema=True):
            return super().generate(labels, use_ema) * 0 - 1

    callback = make_callback()
    fit(make_module(Black), callback)
    assert int(torch.cat(callback.extractor.images).max()) == 0


class Counting(FIDEvaluationCallback):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.epochs = []

    def _evaluate(self, trainer, pl_module, epoch):
        self.epochs.append(epoch)
        return {"eval/fid": float(epoch)}


@pytest.mark.parametrize(
    ("eval_freq", "settings", "expected"),
    [
        (2, {"max_epochs": 4}, [1, 3]),
        (2, {"max_epochs": 3}, [1, 2]),
        (5, {"max_epochs": 2}, [1]),
        (5, {"max_epochs": -1, "max_steps": 3}, [1]),
        (1, {"fast_dev_run": True}, []),
    ],
)
def test_when_it_evaluates(eval_freq, settings, expected):
    callback = make_callback(Counting, eval_freq=eval_freq)
    fit(make_module(), callback, **settings)
    assert callback.epochs == expected


class StopEarly(pl.Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = True


def test_the_end_of_a_training_that_stops_early_is_evaluated_and_logged(tmp_path):
    callback = make_callback(Counting, eval_freq=5)
    trainer = fit(make_module(), callback, StopEarly(), epochs=9, logger=CSVLogger(tmp_path, name="", version=""))
    assert callback.epochs == [0] and float(trainer.callback_metrics["eval/fid"]) == 0
    assert [row["eval/fid"] for row in logged_rows(tmp_path) if row.get("eval/fid")] == ["0.0"]
    # The same callback in a second training begins anew.
    fit(make_module(), callback, StopEarly(), epochs=9)
    assert callback.epochs == [0, 0]


def snapshot(module):
    return (
        {name: p.clone() for name, p in module.named_parameters()},
        {name: p.clone() for name, p in module.ema_params1.items()},
        [part.training for part in module.modules()],
        torch.get_rng_state(),
        random.getstate(),
        np.random.get_state()[1].tolist(),
    )


def assert_same(before, after):
    for old, new in zip(before[:2], after[:2], strict=True):
        assert old and all(torch.equal(old[name], new[name]) for name in old)
    assert before[2] == after[2]
    assert torch.equal(before[3], after[3])
    assert before[4:] == after[4:]


class Watch(pl.Callback):
    """Take the state of everything before the evaluation; in the list of callbacks it comes first."""

    def on_train_epoch_end(self, trainer, pl_module):
        pl_module.net.blocks[1].eval()
        self.before = snapshot(pl_module)


def diverged(module):
    def generate(labels, use_ema=True):
        return torch.full((len(labels), *module.codec.shape), torch.nan)

    return generate


@pytest.mark.parametrize("failure", ["override", "network", "nan", "extractor"])
def test_a_failing_evaluation_leaves_the_training_as_it_was(failure):
    module, watch = make_module(), Watch()

    class Failing(FIDEvaluationCallback):
        def _evaluate(self, trainer, pl_module, epoch):
            random.random(), np.random.rand(), torch.rand(1)
            if failure == "override":
                # Not even a swap that forgets to swap back does harm.
                for parameter in pl_module.parameters():
                    parameter.data = parameter.data * 0
                pl_module.train()
                raise RuntimeError("on purpose")
            with pl_module.ema_weights(2):
                return super()._evaluate(trainer, pl_module, epoch)

    class Broken(Classifying):
        def __call__(self, images):
            if len(self.images) == 1:
                raise RuntimeError("on purpose")
            return super().__call__(images)

    callback = make_callback(Failing, extractor=Broken() if failure == "extractor" else None)
    calls = []
    if failure == "network":

        def forward(self, inputs):
            calls.append(1)
            if len(calls) == 5:
                raise RuntimeError("on purpose")

        module.net.blocks[2].register_forward_pre_hook(lambda *a: forward(*a) if not module.training else None)
    if failure == "nan":
        module.generate = diverged(module)
    kind, message = (DataError, "16 of 16 generated images") if failure == "nan" else (RuntimeError, "on purpose")
    with pytest.raises(kind, match=message):
        fit(module, watch, callback)
    assert_same(watch.before, snapshot(module))
    assert callback.metrics == {} and callback.extractor.devices[-1] == "cpu"


def test_evaluation_and_grids_do_not_change_the_training(tmp_path):
    losses = []

    class Losses(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            losses.append(float(outputs["loss"]))

    modules = []
    for extra in ([], [make_callback(), SampleGridCallback(1, dirpath=tmp_path)]):
        pl.seed_everything(5, verbose=False)
        modules.append(make_module(attn_dropout=0.1))
        fit(modules[-1], *extra, Losses(), epochs=2)
    assert len(losses) == 8 and losses[:4] == losses[4:]
    assert_same(*(snapshot(module)[:3] + snapshot(modules[0])[3:] for module in modules))


def test_parts_of_the_model_keep_their_own_mode():
    module = make_module()
    module.net.blocks[1].eval()
    before = [part.training for part in module.modules()]
    with undisturbed(module):
        assert not any(part.training for part in module.modules())
    assert [part.training for part in module.modules()] == before


def test_mixed_precision_reaches_the_network_only():
    callback, seen = make_callback(), []
    module = make_module()

    def look(part, inputs, output):
        if not module.training:
            seen.append(output.dtype)

    module.net.blocks[0].attn.qkv.register_forward_hook(look)
    samples = module.generate

    def generate(labels, use_ema=True):
        out = samples(labels, use_ema)
        seen.append(("sample", out.dtype))
        return out

    module.generate = generate
    fit(module, callback, precision="bf16-mixed")
    assert set(seen) == {torch.bfloat16, ("sample", torch.float32)}


# ------------------------------------------------------------------------------------------- before training


def assert_fails_before_training(error, message, callback, module=None):
    module = module or make_module()
    module.training_step = lambda *a: pytest.fail("the training began")
    with pytest.raises(error, match=message):
        fit(module, callback)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_images": 46}, r"num_images \(46\) .*\(5\).* 45 would do"),
        ({"num_images": 2}, "5 would do"),
        ({"eval_freq": 0}, "eval_freq must be at least 1; got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1; got 0"),
    ],
)
def test_bad_numbers_fail_at_once(settings, message):
    with pytest.raises(ConfigError, match=message):
        make_callback(**settings)


def test_documented_arguments_and_defaults():
    callback = FIDEvaluationCallback()
    documented = ("eval_freq", "num_images", "batch_size", "num_classes", "img_size", "use_ema")
    assert [getattr(callback, name) for name in documented] == [40, 50000, 256, 1000, 256, True]


def test_missing_statistics_fail_before_training(tmp_path):
    callback = make_callback(reference=None, folder=tmp_path / "fid_stats")
    assert_fails_before_training(MissingFileError, r"jit_in16_stats\.npz .*fid_stats", callback)
    assert_fails_before_training(MissingFileError, r"other\.npz", make_callback(reference=tmp_path / "other.npz"))


def test_statistics_from_a_folder_are_used(tmp_path):
    extractor = Classifying()
    save_statistics(tmp_path / "jit_in16_stats.npz", *reference(extractor))
    found = []
    for settings in ({"folder": tmp_path, "reference": None}, {"reference": tmp_path / "jit_in16_stats.npz"}, {}):
        callback = make_callback(**settings)
        fit(make_module(), callback)
        found.append(callback.metrics["eval/fid"])
    assert found[0] == found[1] == pytest.approx(found[2], rel=1e-9)


def test_what_does_not_fit_fails_before_training(tmp_path):
    wrong = (torch.zeros(3), torch.eye(3))
    assert_fails_before_training(ConfigError, "3 dimensions, but pixels-1x4x4 makes 16", make_callback(reference=wrong))
    negative = (torch.zeros(16), -torch.eye(16))
    assert_fails_before_training(ConfigError, "negative eigenvalue", make_callback(reference=negative))
    many = FIDEvaluationCallback(1, 20, 4, 20, 16, extractor=Classifying(), reference=wrong)
    assert_fails_before_training(ConfigError, "num_classes is 20, .* has 10", many)
    large = FIDEvaluationCallback(1, 20, 4, 10, 256, extractor=Classifying(), folder=tmp_path)
    assert_fails_before_training(ConfigError, "img_size is 256, .* 16 x 16", large)
    with pytest.raises(ConfigError, match="needs a jitflow module"):
        make_callback().setup(pl.Trainer(logger=False), pl.LightningModule(), "fit")


def test_missing_weights_fail_before_training(tmp_path, monkeypatch):
    pytest.importorskip("torch_fidelity")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    callback = FIDEvaluationCallback(1, 20, 4, 10, 16, reference=(torch.zeros(2048), torch.eye(2048)))
    assert_fails_before_training(MissingFileError, "Inception weights .* are missing", callback)


def test_too_few_images_are_warned_of():
    with pytest.warns(UserWarning, match=r"num_images \(10\).*\(16\).*at least 17"):
        make_callback(num_images=10).setup(pl.Trainer(logger=False, accelerator="cpu"), make_module(), "fit")


def test_why_it_is_unavailable(tmp_path, monkeypatch):
    pytest.importorskip("torch_fidelity")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert "Inception weights" in FIDEvaluationCallback.unavailable(256, folder=tmp_path)
    weights = tmp_path / "weights.pth"
    weights.touch()
    assert "jit_in256_stats.npz" in FIDEvaluationCallback.unavailable(256, folder=tmp_path, weights_path=weights)
    save_statistics(tmp_path / "jit_in256_stats.npz", np.zeros(2), np.eye(2))
    assert FIDEvaluationCallback.unavailable(256, folder=tmp_path, weights_path=weights) is None
    assert "jit_in512" in FIDEvaluationCallback.unavailable(512, folder=tmp_path, weights_path=weights)


# -------------------------------------------------------------------------------------------------- the grid


def test_grids_appear_and_repeat(tmp_path):
    for run in ("a", "b"):
        pl.seed_everything(1, verbose=False)
        fit(make_module(), SampleGridCallback(2, per_class=3, dirpath=tmp_path / run), epochs=3)
    for folder in ("a", "b"):
        names = sorted(path.name for path in (tmp_path / folder).iterdir())
        assert names == ["samples_epoch0002.png", "samples_epoch0003.png"]
    for name in names:
        first, second = (np.asarray(Image.open(tmp_path / run / name)) for run in ("a", "b"))
        assert np.array_equal(first, second) and len(np.unique(first)) > 10
    # Eight of ten classes in rows of three, each digit 64 px wide, with gaps of 2.
    assert first.shape == (8 * 66 + 2, 3 * 66 + 2)


def test_a_grid_of_chosen_labels_goes_to_tensorboard(tmp_path):
    logger = TensorBoardLogger(tmp_path, name="", version="")
    fit(make_module(), SampleGridCallback(5, [7, 10], per_class=20, seed=4, dirpath=tmp_path), logger=logger)
    sheet = np.asarray(Image.open(tmp_path / "samples_epoch0001.png"))
    assert sheet.shape == (2 * 66 + 2, 20 * 66 + 2)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0}).Reload()
    (picture,) = events.Images("samples")
    assert (picture.height, picture.width, picture.step) == (*sheet.shape, 2)


def test_the_grid_of_an_early_stop_is_drawn(tmp_path):
    fit(make_module(), SampleGridCallback(5, per_class=1, dirpath=tmp_path), StopEarly(), epochs=9)
    assert [path.name for path in tmp_path.iterdir()] == ["samples_epoch0001.png"]


def test_bad_grid_settings(tmp_path):
    for settings in ({"every_n_epochs": 0}, {"per_class": 0}, {"labels": []}):
        with pytest.raises(ConfigError):
            SampleGridCallback(**settings)
    assert_fails_before_training(
        ConfigError, "11 is out of range", SampleGridCallback(labels=[3, 11], dirpath=tmp_path)
    )


# ------------------------------------------------------------------------------------------- two processes


class Varied(JiTLightningModule):
    """Samples so different that one image too many shows in the score."""

    def generate(self, labels, use_ema=True):
        noise = noise_from_seeds(self.codec.shape, current_seeds(len(labels)))
        return super().generate(labels, use_ema) + noise.mul_(0.5).add_(labels.view(-1, 1, 1, 1) / 3)


def run_processes(folder: Path, processes: int) -> None:
    """Evaluate in one or more processes, then with the last of them failing; what happened goes to files."""
    module = make_module(Varied, learning_rate=1e-9)
    # 45 images are no multiple of 2 processes, and 23 no multiple of the batch size.
    callback = make_callback(batch_size=7)
    grid = SampleGridCallback(1, per_class=1, dirpath=folder / "grids")
    settings = {"devices": processes, "strategy": "ddp" if processes > 1 else "auto"}
    trainer = fit(module, callback, grid, **settings)
    result = {**callback.metrics, "logged": float(trainer.callback_metrics["eval/fid"])}
    if trainer.global_rank == processes - 1:
        module.generate = diverged(module)
    try:
        callback._evaluate(trainer, module, 0)
    except (DataError, RuntimeError) as error:
        result["error"] = str(error)
    (folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(result))


def run_script(folder: Path, processes: int) -> list[dict]:
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for name in ("PL_GLOBAL_SEED", "WORLD_SIZE", "LOCAL_RANK"):
        environment.pop(name, None)
    # The limit is what catches a process that waits for another.
    done = subprocess.run(
        [sys.executable, __file__, str(folder), str(processes)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(processes)]


def test_two_processes_find_what_one_finds(tmp_path):
    (one,) = run_script(tmp_path / "one", 1)
    two = run_script(tmp_path / "two", 2)
    assert "generated images hold NaN" in one["error"] and "generated images hold NaN" in two[1]["error"]
    assert two[0]["error"] == "the evaluation failed on another process; its own message says why"
    for name in ("eval/fid", "eval/is", "logged"):
        assert two[0][name] == two[1][name] == pytest.approx(one[name], rel=1e-5)
    assert len(list((tmp_path / "two" / "grids").iterdir())) == 1


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_processes(Path(sys.argv[1]), int(sys.argv[2]))
    if torch.distributed.is_initialized():
        # A process that ends with gloo's threads still running can be aborted after all work is done.
        torch.distributed.destroy_process_group()
