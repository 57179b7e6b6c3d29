"""Training text as colour from a user's chair: files, resuming, mistakes, samples."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from PIL import Image
from tiny import TEXT, TEXT_NET, epochs_done, train_text, write_corpus

import jitflow
from jitflow.apps.text.data import TextDataModule
from jitflow.apps.text.module import TextLightningModule
from jitflow.apps.text.network import load_pretrained_jit
from jitflow.apps.text.sampling import read_text
from jitflow.apps.text.tokenizer import ByteTokenizer, tokenizer_from_json
from jitflow.callbacks.history import TrainingHistory
from jitflow.data.batch import ImageBatch
from jitflow.errors import CheckpointError, ConfigError, DataError, JitflowError, MissingFileError
from jitflow.io.files import load_checkpoint, read_json
from jitflow.model import Model
from jitflow.run.recipe import read_recipe
from jitflow.run.settings import complete
from jitflow.verbs.application import application

ROOT = Path(__file__).parents[2]
WORDS = ByteTokenizer()


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("text"))


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


def test_a_learned_tokenizer_goes_with_the_checkpoint(text, tmp_path):
    out = tmp_path / "run"
    train_text(text, out, tokenizer="bpe:300", epochs=1, save_interval=1, **TEXT)
    module = jitflow.load(out / "checkpoint_epoch_1.pth", device="cpu").module
    assert module.tokenizer.name == "bpe:300" and module.tokenizer.vocab_size > 258
    train_text(text, resume=out, tokenizer="bpe:300", epochs=2, accelerator="cpu")
    record = (out / "run.json").read_bytes()
    # Of other text another tokenizer is learned, which the checkpoint's model does not know.
    other = tmp_path / "other.txt"
    other.write_text("completely different words everywhere " * 80)
    for given in ({"tokenizer": "bpe:300"}, {}):
        with pytest.raises(JitflowError, match="another tokenizer"):
            train_text(other, resume=out, epochs=3, accelerator="cpu", **given)
        assert (out / "run.json").read_bytes() == record


@pytest.mark.parametrize("mapping", ["lattice", "base256"])
def test_the_mappings_of_one_pixel_train_and_write(text, tmp_path, mapping):
    settings = {**TEXT, "img_size": 8, "mapping": mapping, "epochs": 1}
    module = jitflow.load(train_text(text, tmp_path, **settings).best, device="cpu").module
    assert module.colours.num_tokens == 64
    samples = Model(module).sample(num=2, steps=3)
    assert samples.ids.shape == (2, 64)


def test_velocity_prediction_trains(text, tmp_path):
    run = train_text(text, tmp_path, predict_clean=False, max_steps=3, epochs=9, **TEXT)
    module = jitflow.load(run.checkpoint, device="cpu").module
    assert module.prediction == "velocity"
    assert load_checkpoint(tmp_path / "checkpoint-last.pth")["global_step"] == 3


def test_a_text_too_short_to_hold_out_is_its_own_validation(tmp_path, caplog):
    page = tmp_path / "page.txt"
    page.write_text("One short page. " * 20)
    with caplog.at_level("INFO"):
        best = train_text(page, tmp_path / "run", epochs=2, **TEXT).best
    assert best.name == "best_model.pth" and best.exists()
    assert "on the training text itself" in caplog.text
    # Longer than an image: cut into windows, which is said.
    assert "windows of 16" in caplog.text


def test_the_built_in_corpus_takes_the_place_of_the_documented_folder(tmp_path, monkeypatch, caplog):
    import jitflow.apps.text.data as data

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, "builtin_documents", lambda split: [f"the {split} corpus " * 60])
    with caplog.at_level("INFO"):
        train_text("./data/train", "out", epochs=1, **TEXT)
    assert "./data/train does not exist: the built-in corpus takes its place" in caplog.text
    write_corpus(tmp_path / "data" / "train")
    caplog.clear()
    with caplog.at_level("INFO"):
        train_text("./data/train", "out2", epochs=1, max_steps=1, **TEXT)
    assert "built-in" not in caplog.text


def test_what_cannot_work_is_said_before_anything_is_written(text, tmp_path):
    out = tmp_path / "out"
    empty, odd, blank = tmp_path / "empty", tmp_path / "odd", tmp_path / "blank.txt"
    empty.mkdir()
    odd.mkdir()
    (odd / "a.pdf").write_text("x")
    blank.write_text(" \n ")
    cases = [
        (MissingFileError, "does not exist", {"data_path": tmp_path / "nowhere"}),
        (DataError, "is empty", {"data_path": empty}),
        (DataError, r"unknown types \(a.pdf\)", {"data_path": odd}),
        (DataError, "unknown type", {"data_path": odd / "a.pdf"}),
        (DataError, "unknown types", {"val_path": odd}),
        (ConfigError, "unknown model", {"model": "JiT-B/5"}),
        (ConfigError, "image size", {"img_size": 18}),
        (ConfigError, "bpe:<vocabulary size>", {"tokenizer": "bpe:many"}),
        (MissingFileError, "tokenizer_path", {"tokenizer": str(tmp_path / "tokenizer")}),
        (ConfigError, "unknown colour mapping", {"mapping": "codebok"}),
        (ConfigError, "epochs must be at least 1", {"epochs": 0}),
        (ConfigError, "max_steps must be", {"max_steps": 0}),
        (ConfigError, "warmup_epochs must be", {"warmup_epochs": -1}),
        (ConfigError, "save_interval must be", {"save_interval": 0}),
        (ConfigError, "devices must be", {"devices": 0}),
        (MissingFileError, "no checkpoint", {"resume": tmp_path / "nothing.pth"}),
        (MissingFileError, "no", {"resume": "auto"}),
    ]
    for error, message, given in cases:
        with pytest.raises(error, match=message):
            train_text(**{**TEXT, "data_path": text, "output_dir": out, **given})
        assert not out.exists(), given
    with pytest.raises(DataError, match="no text"):
        train_text(blank, out, **TEXT)


def test_a_vocabulary_too_large_for_the_mapping_says_the_limit(text, tmp_path, monkeypatch):
    import jitflow.apps.text.colour as colour

    monkeypatch.setattr(colour, "DIMENSION", 8)
    with pytest.raises(ConfigError, match="256 tokens; the vocabulary has 258"):
        train_text(text, tmp_path, **TEXT)


def test_a_checkpoint_of_something_else_is_refused(text, tmp_path):
    path = tmp_path / "other.pth"
    torch.save({"state_dict": {}, "hyper_parameters": {"num_classes": 3}}, path)
    with pytest.raises(CheckpointError, match="settings"):
        train_text(text, tmp_path / "out", resume=path)
    recipe = complete(read_recipe("images/digits"))
    torch.save({"state_dict": {}, "hyper_parameters": {"num_classes": 3}, "recipe": recipe}, path)
    with pytest.raises(CheckpointError, match="no model of text but of images"):
        train_text(text, tmp_path / "out", resume=path)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(shutil.which("wandb") is not None, reason="wandb is installed")
def test_wandb_has_to_be_there(text, tmp_path):
    with pytest.raises(ConfigError, match="pip install wandb"):
        application("text", ["train", "--data_path", str(text), "--output_dir", str(tmp_path), "--use_wandb"])


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


PAGE = """
The harbour lay quiet under a pale morning sky. Two fishing boats had come in before dawn, and their crews were sorting
the catch on the quay: herring in one crate, mackerel in the next, and a single large cod that a boy held up for
everyone to see. Nobody spoke much. Gulls walked between the ropes and waited. Higher up, in the old part of town, the
baker opened her shutters. She counted the loaves twice, wrote the number on a slate, and set the door ajar so that the
warm smell could find its way down the hill. By seven the first customers came: a teacher, a postman with muddy shoes,
and the man who repaired clocks and was never on time himself. At noon the wind turned north. The boats swung round on
their chains, the flags cracked like whips, and rain crossed the bay in a grey curtain. People ran laughing for the
arcade. Only the clock maker stood still, looking up at the tower, where both hands pointed straight at twelve.
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_page_is_memorised_and_sampled_back_word_for_word(tmp_path):
    lines = textwrap.wrap(" ".join(PAGE.split()), 56)
    page = tmp_path / "page.jsonl"
    page.write_text("".join(json.dumps(line) + "\n" for line in lines))
    train_text(
        page,
        tmp_path / "run",
        model="JiT-N/4",
        img_size=24,
        net_settings={"depth": 4, "hidden_size": 128, "num_heads": 4, "bottleneck_dim": 48, "init_std": 0.08},
        tokenizer="bpe:1000",
        pack=False,
        epochs=2500,
        batch_size=len(lines),
        lr=3e-3,
        warmup_epochs=50,
        weight_decay=0.0,
        velocity_weight=0.0,
        infill_prob=0.25,
        prompt_prob=0.8,
        # In strong noise already it has to be known which of the lines it will be.
        P_mean=-2.0,
        P_std=1.5,
        save_interval=10**6,
        val_interval=10**6,
        accelerator="cpu",
    )
    module = jitflow.load(tmp_path / "run" / "checkpoint-last.pth", device="cpu").module
    for i, line in enumerate(lines):
        # Three tokens: a prompt that ends inside one would begin another text.
        prompt = module.tokenizer.decode(module.tokenizer.encode(line)[:3])
        assert Model(module).sample(num=1, prompt=prompt, steps=50, seeds=i).texts == [line]
    written = Model(module).sample(num=64, steps=100).texts
    # From nothing but noise: lines of the page, and most of them.
    assert sum(text in lines for text in written) >= 60
    assert len(set(written) & set(lines)) >= len(lines) // 2


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
        (["train", "--tokenizer", "bytes", "--tokenizer_path", "x"], "give one of them"),
        (["train", "--use_amp", "false", "--precision", "bf16-mixed"], "give one of them"),
        (["train", "--epochs", "many"], "--epochs must be int"),
        (["train", "--compile", "network", "--epochs", "many"], "--epochs must be int"),
        (["train", "--compile", "--epochs", "many"], "--epochs must be int"),
        (["sample", str(whole[0] / "best_model.pth"), "--count", "0"], "at least 1"),
        (["sample", str(tmp_path / "none.pth")], "does not exist"),
    ):
        with pytest.raises(JitflowError, match=message):
            application("text", args)


@pytest.mark.parametrize("recipe", ["text/jit_n4_bytes", "text/jit_b4_bytes"])
def test_a_recipe_trains_and_its_checkpoint_writes(text, tmp_path, recipe):
    from jitflow import cli

    words = ["train", "--config", recipe, "--run_dir", str(tmp_path / "run"), "--data.data_path", str(text)]
    words += ["--data.img_size", "16", "--model.img_size", "16", "--data.batch_size", "32", "--trainer.max_epochs", "1"]
    words += [
        "--model.model_name",
        "JiT-N/4",
        "--model.net_settings",
        json.dumps(TEXT_NET),
        "--trainer.precision",
        "32-true",
    ]
    words += ["--trainer.limit_train_batches", "2", "--schedule.warmup_epochs", "0.5", "--trainer.accelerator", "cpu"]
    assert cli.main(words) == 0
    best = tmp_path / "run" / "checkpoints" / "best_model.pth"
    assert len(jitflow.load(best, device="cpu").sample(num=1, steps=2)) == 1


def test_a_recipe_for_images_of_another_size_is_refused(text):
    data = TextDataModule(text, mapping="lattice", img_size=8)
    module = TextLightningModule("bytes", "JiT-N/4", 16, net_settings=TEXT_NET)
    assert data.num_tokens == 64
    with pytest.raises(ConfigError, match="num_tokens=16"):
        module.check_data(data.get_dataset_info())


def test_train_py_says_what_it_is():
    done = subprocess.run([sys.executable, "train.py", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "text as colour" in done.stdout and "jitflow train" in done.stdout
    documented = (
        "resume data_path model img_size epochs lr warmup_epochs batch_size output_dir tokenizer_path save_interval "
        "predict_clean weight_decay use_amp gradient_accumulation_steps max_grad_norm log_interval use_wandb "
        "wandb_project wandb_name wandb_entity"
    )
    for flag in documented.split():
        assert f"--{flag}" in done.stdout, flag


def test_train_sh_runs_and_resumes(tmp_path):
    """The documented script on a small corpus, then the documented resume command."""
    script = ROOT / "train.sh"
    assert os.access(script, os.X_OK)
    write_corpus(tmp_path / "data" / "train")
    small = {"MODEL": "JiT-N/4", "EPOCHS": "1", "IMG_SIZE": "16", "LR": "1e-3", "SAVE_INTERVAL": "1"}
    environment = {**os.environ, **small, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    options = ["--net_settings", json.dumps(TEXT_NET), "--accelerator", "cpu"]
    done = subprocess.run(
        [script, *options], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run" / "jit_v1"
    assert (run / "best_model.pth").exists() and (run / "checkpoint_epoch_1.pth").exists()
    assert load_checkpoint(run / "checkpoint_epoch_1.pth")["hyper_parameters"]["learning_rate"] == 1e-3
    resume = ["--resume", "./run/jit_v1/checkpoint_epoch_1.pth", "--data_path", "./data/train", "--epochs", "2"]
    command = [sys.executable, str(ROOT / "train.py"), *resume, "--accelerator", "cpu"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert epochs_done(run / "checkpoint-last.pth") == 2
    # The first command again: it asks for less, and for that the run is long enough.
    again = subprocess.run(
        [script, *options], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200
    )
    assert again.returncode == 0 and "is finished" in again.stderr
    assert epochs_done(run / "checkpoint-last.pth") == 2


def test_what_the_training_sees_is_text(text, tmp_path):
    """Batches are windows of the corpus, and what is read from their colours is the corpus."""
    seen: list[str] = []

    class Look(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            assert isinstance(batch, ImageBatch)
            x = pl_module.codec.encode(batch.images)
            seen.extend(WORDS.decode(ids) for ids in pl_module.colours.tokens(x).tolist())

    train_text(text, tmp_path, epochs=1, callbacks=[Look()], **TEXT)
    assert any("Document" in piece for piece in seen) and any("word7 word" in piece for piece in seen)
