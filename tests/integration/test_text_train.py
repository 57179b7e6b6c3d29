"""Training text as colour from a user's chair: files, resuming, samples, the command that samples."""

from __future__ import annotations

import csv
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import TEXT, TEXT_NET, epochs_done, train_text

import jitflow
from jitflow.apps.text.network import load_pretrained_jit
from jitflow.apps.text.sampling import read_text
from jitflow.apps.text.tokenizer import ByteTokenizer, tokenizer_from_json
from jitflow.callbacks.history import TrainingHistory
from jitflow.errors import ConfigError, DataError, JitflowError
from jitflow.io.files import load_checkpoint, read_json
from jitflow.model import Model
from jitflow.verbs.application import application

WORDS = ByteTokenizer()


@pytest.fixture(scope="module")
def whole(text, tmp_path_factory):
    """An uninterrupted training of three epochs."""
    out = tmp_path_factory.mktemp("whole") / "run"
    history = TrainingHistory()
    train_text(text, out, epochs=3, save_interval=1, callbacks=[history], **TEXT)
    return out, history


def test_the_files_hold_what_is_promised(whole, text):
    out, _ = whole
    names = {f"checkpoint_epoch_{n}.pth" for n in (1, 2, 3)} | {"best_model.pth", "checkpoint-last.pth"}
    assert names <= {file.name for file in out.iterdir()}
    assert {"config.yaml", "environment.json"} <= {file.name for file in out.iterdir()}
    saved = load_checkpoint(out / "checkpoint_epoch_2.pth")
    documented = {"model_state_dict", "optimizer_state_dict", "scheduler_state_dict", "epoch", "model_ema1"}
    assert documented <= saved.keys()
    # Lightning's count: the last finished epoch from 0, so that epoch + 1 comes next.
    assert saved["epoch"] == 1
    assert saved["hyper_parameters"]["mapping"] == "codebook"
    assert saved["recipe"]["model"]["init_args"]["learning_rate"] == 1e-3
    assert tokenizer_from_json(saved["hyper_parameters"]["tokenizer"]).fingerprint == WORDS.fingerprint
    best = [v["best_value"] for k, v in saved["callbacks"].items() if "Checkpoint" in k]
    assert len(best) == 1 and 0 < best[0] < 10
    net = load_pretrained_jit("JiT-N/4", pretrained_path=out / "best_model.pth", img_size=16, **TEXT_NET)
    module = jitflow.load(out / "best_model.pth", device="cpu").module
    for (name, a), b in zip(net.state_dict().items(), module.net.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_validation_gets_better_and_best_is_the_best(whole):
    out, history = whole
    assert history.losses[-1] < history.losses[0]
    (record,) = out.glob("csv/*/metrics.csv")
    rows = list(csv.DictReader(record.read_text().splitlines()))
    losses = [float(row["val/loss"]) for row in rows if row["val/loss"]]
    assert len(losses) == 3 and min(losses) < losses[0]
    assert load_checkpoint(out / "best_model.pth")["epoch"] == losses.index(min(losses))


def test_a_better_best_model_survives_a_resume(whole, text, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(whole[0], out)
    path = out / "checkpoint_epoch_3.pth"
    before = (out / "best_model.pth").read_bytes()
    for best, survives in ((0.0, True), (99.0, False)):
        checkpoint = load_checkpoint(path)
        (state,) = (state for name, state in checkpoint["callbacks"].items() if "Checkpoint" in name)
        state["best_value"] = best
        torch.save(checkpoint, tmp_path / "edited.pth")
        train_text(resume=tmp_path / "edited.pth", output_dir=out, epochs=4, accelerator="cpu")
        assert epochs_done(out / "checkpoint-last.pth") == 4
        assert ((out / "best_model.pth").read_bytes() == before) == survives


def test_documented_resume_with_the_same_options_and_more_epochs(whole, text, tmp_path, caplog):
    out = tmp_path / "run"
    shutil.copytree(whole[0], out)
    path = out / "checkpoint_epoch_3.pth"
    with caplog.at_level("INFO"):
        train_text(text, out, resume=path, epochs=5, tokenizer="bytes", **TEXT)
    assert epochs_done(out / "checkpoint-last.pth") == 5
    assert "trainer.max_epochs 3 (now 5)" in caplog.text
    # Without another word it is as long as before, which it is already; and so by steps.
    before = {file.name: file.stat().st_mtime_ns for file in out.iterdir()}
    for again in ({"epochs": 3}, {"max_steps": 5, "epochs": 9}):
        caplog.clear()
        with caplog.at_level("INFO"):
            assert train_text(resume=path, **again).epochs == 5
        assert "is finished" in caplog.text
    assert {file.name: file.stat().st_mtime_ns for file in out.iterdir()} == before


def test_another_training_is_not_overwritten(whole, text):
    out, _ = whole
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*") if file.is_file()}
    with pytest.raises(ConfigError, match=r"--restart") as caught:
        train_text(text, out, epochs=3, save_interval=1, pack=False, **{**TEXT, "seed": 3, "batch_size": 16})
    for name in (str(out), "data.batch_size 32 (now 16)", "data.pack True (now False)", "seed_everything 0 (now 3)"):
        assert name in str(caught.value)
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*") if file.is_file()} == before


def test_other_settings_than_the_checkpoint_are_refused(whole, text, tmp_path):
    path = whole[0] / "checkpoint_epoch_2.pth"
    out = tmp_path / "out"
    for given, name in (
        ({"lr": 0.5}, r"model\.learning_rate 0\.001 \(now 0\.5\)"),
        ({"mapping": "lattice"}, r"model\.mapping codebook \(now lattice\)"),
        ({"tokenizer": "bpe:300"}, "tokenizer"),
    ):
        with pytest.raises(JitflowError, match=name):
            train_text(text, out, resume=path, **given)
        assert not out.exists()


# ------------------------------------------------------------------------------------------- sampling


@pytest.fixture
def module(whole):
    return jitflow.load(whole[0] / "best_model.pth", device="cpu").module


def test_a_seed_names_a_text_whatever_the_batch(module):
    together = Model(module).sample(num=5, seeds=3, steps=4, churn=0.5)
    apart = Model(module).sample(num=5, seeds=[3, 4, 5, 6, 7], steps=4, churn=0.5, batch_size=2)
    assert together.texts == apart.texts and together.seeds == apart.seeds == [3, 4, 5, 6, 7]
    torch.testing.assert_close(together.states, apart.states, atol=1e-4, rtol=1e-4)
    assert len(set(together.texts)) > 1
    assert together.pixels.shape == (5, 3, 16, 16) and together.ids.shape == (5, 16)
    # The module's own settings come back.
    assert (module.num_sampling_steps, module.churn, module.temperature) == (100, 0.0, 1.0)


def test_settings_have_effect_and_are_recorded(module):
    plain = Model(module).sample(num=3, steps=4)
    for given in ({"churn": 1.0}, {"temperature": 0.3}, {"solver": "heun"}, {"ema": 0}, {"steps": 5}, {"seeds": 9}):
        other = Model(module).sample(num=3, **{"steps": 4, **given})
        assert not torch.equal(plain.states, other.states), given
        for name, value in given.items():
            assert name == "seeds" or other.settings[name] == value
    assert plain.settings["ema"] == 1 and plain.settings["tokenizer"] == "bytes"
    half = Model(module).sample(num=3, steps=4, precision="bf16")
    torch.testing.assert_close(half.states, plain.states, atol=0.5, rtol=0)
    assert not torch.equal(half.states, plain.states)


def test_a_prompt_comes_first_and_is_kept(module):
    samples = Model(module).sample(num=3, prompt="Grüße", steps=4, churn=0.5)
    assert all(text.startswith("Grüße") for text in samples.texts)
    assert samples.ids[:, :7].tolist() == [WORDS.encode("Grüße")] * 3
    with pytest.raises(ConfigError, match=r"prompt has 16 tokens .*at most 15"):
        Model(module).sample(num=1, prompt="x" * 16)
    assert len(Model(module).sample(num=1, prompt="x" * 15, steps=2).texts[0]) >= 15


def test_reading_stops_at_the_first_end(module):
    ids = [*WORDS.encode("one"), WORDS.end_id, *WORDS.encode("two"), WORDS.end_id]
    assert read_text(module, ids) == "one"
    assert read_text(module, WORDS.encode("no end")) == "no end"
    assert read_text(module, [WORDS.end_id]) == ""


class Oracle(torch.nn.Module):
    def __init__(self, image):
        super().__init__()
        self.image = torch.nn.Parameter(image, requires_grad=False)

    def forward(self, x, t, y, hint=None):
        return self.image


def test_recovery_starts_from_the_noisy_text(module):
    texts = ["all of a text", "and another"]
    late = Model(module).sample(texts=texts, start_time=0.9, seeds=5, steps=10)
    # At this time every place tells its token by itself.
    assert late.texts == texts
    ids = late.ids
    assert ids[0, 13].item() == WORDS.end_id and set(ids[0, 14:].tolist()) == {WORDS.pad_id}
    again = Model(module).sample(texts=ids, start_time=0.9, seeds=[5, 6], steps=10)
    assert again.texts == texts and torch.equal(again.states, late.states)
    early = Model(module).sample(texts=texts, start_time=0.0, seeds=5, steps=10)
    assert torch.equal(early.states, Model(module).sample(num=2, seeds=5, steps=10).states)
    assert late.settings["start_time"] == 0.9
    with pytest.raises(ConfigError, match=r"17 tokens .*image holds 16"):
        Model(module).sample(texts=["x" * 16], start_time=0.5)
    for t in (1.0, -0.1):
        with pytest.raises(ConfigError, match=r"\[0, 1\)"):
            Model(module).sample(texts=texts, start_time=t)
    with pytest.raises(ConfigError, match="empty"):
        Model(module).sample(texts=[], start_time=0.5)


def test_recovery_with_an_oracle_is_exact_from_anywhere(module):
    texts = ["all of a text", "and another"]
    x1 = module.colours.encode(Model(module).sample(texts=texts, start_time=0.95, steps=5).ids)
    module.net = Oracle(4 * x1)
    for t in (0.0, 0.3, 0.55):
        assert Model(module).sample(texts=texts, start_time=t, ema=0, steps=7, churn=0.5).texts == texts


def test_bad_settings_of_sampling(module):
    cases = [
        {"num": 0},
        {"seeds": [1]},
        {"steps": 0},
        {"solver": "eulr"},
        {"churn": -1.0},
        {"temperature": 0.0},
        {"ema": 3},
        {"batch_size": 0},
        {"precision": "8"},
    ]
    for given in cases:
        with pytest.raises(ConfigError):
            Model(module).sample(**{"num": 2, "steps": 2, **given})
    module.posterior = None
    with pytest.raises(ConfigError, match="temperature needs"):
        Model(module).sample(num=1, temperature=0.5)


def test_a_model_that_has_diverged_says_so(module):
    with torch.no_grad():
        next(module.net.parameters()).fill_(float("nan"))
    with pytest.raises(DataError, match="diverged"):
        Model(module).sample(num=2, steps=2, ema=0)


# ------------------------------------------------------------------------------------------- commands


def test_sample_command_leaves_texts_images_and_a_record(whole, tmp_path, capsys):
    out = tmp_path / "out"
    path = str(whole[0] / "best_model.pth")
    application("text",
        ["sample", path, "--prompt", "Doc", "--count", "3", "--seed", "7", "--steps", "3", "--churn", "0.5",
         "--temperature", "0.8", "--ema", "0", "--device", "cpu", "--out", str(out)]
    )  # fmt: skip
    shown = capsys.readouterr().out
    record = read_json(out / "samples.json")
    assert (record["settings"]["steps"], record["settings"]["ema"]) == (3, 0) and record["settings"][
        "checkpoint"
    ] == path
    assert [s["seed"] for s in record["samples"]] == [7, 8, 9]
    for sample in record["samples"]:
        assert sample["text"].startswith("Doc") and sample["text"] in (out / "samples.txt").read_text()
        with Image.open(out / sample["file"]) as image:
            assert image.size == (16, 16)
    assert (out / "grid.png").exists() and "seed 8" in shown
    # The picture is the text.
    module = jitflow.load(path, device="cpu").module
    pixels = torch.from_numpy(np.array(Image.open(out / record["samples"][0]["file"])))
    x = pixels.permute(2, 0, 1)[None].float() / 127.5 - 1
    assert read_text(module, module.colours.tokens(x)[0].tolist()) == record["samples"][0]["text"]


def test_commands_that_cannot_work(whole, tmp_path):
    for args, message in (
        (["smaple"], "did you mean sample"),
        (["train", "--tokenizer", "bytes"], "--data.tokenizer"),
        (["train", "--mapping", "codebook"], "--model.mapping and --data.mapping"),
        (["train", "--use_amp", "false", "--trainer.precision", "bf16-mixed"], "give one of them"),
        (["train", "--eppochs", "2"], "did you mean --epochs"),
        (["train", "2"], "'2' has no option"),
        (["train", "--epochs", "many"], "--epochs must be int"),
        (["train", "--model.compile", "network", "--epochs", "many"], "--epochs must be int"),
        (["train", "--model.compile", "--epochs", "many"], "--epochs must be int"),
        (["sample", str(whole[0] / "best_model.pth"), "--count", "0"], "at least 1"),
        (["sample", str(tmp_path / "none.pth")], "does not exist"),
    ):
        with pytest.raises(JitflowError, match=message):
            application("text", args)
