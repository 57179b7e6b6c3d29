"""Named conditions through all stages: columns of a manifest, latents, training, requests by name, files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import jitflow
from jitflow.apps.microdoppler.data import LatentDataModule
from jitflow.apps.microdoppler.latent_file import LatentFile
from jitflow.apps.microdoppler.user_images import find_user_images
from jitflow.cli import main
from jitflow.core.condition_table import ConditionTable
from jitflow.errors import ConfigError, DataError
from jitflow.io.files import read_json

NET = '{"hidden_size": 32, "depth": 1, "num_heads": 2}'
SPEEDS = {"walk": (1.0, 1.2, 1.4), "run": (2.5, 3.0, 3.5)}
RECORD = {"activity": {"names": ["run", "walk"]}, "speed": {"range": [1.0, 3.5]}}


def write_campaign(root, description="colour_map: none\nconditions: [activity, speed]\n"):
    """Pictures of two users; user 2 never runs, and one speed is unknown."""
    rows = ["path,user,activity,speed,split"]
    generator = np.random.default_rng(0)
    for user, activities in ((1, ("walk", "run")), (2, ("walk",))):
        for activity in activities:
            for i, speed in enumerate(SPEEDS[activity]):
                for split in ("train", "val"):
                    name = f"{user}_{activity}_{i}_{split}.png"
                    pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(root / name)
                    known = "" if (user, i) == (2, 2) else speed
                    rows.append(f"{name},{user},{activity},{known},{split}")
    (root / "manifest.csv").write_text("\n".join(rows))
    (root / "spectrograms.yaml").write_text(description)
    return root


def run(*words):
    return main([*map(str, words)])


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Latents and a trained model."""
    out = tmp_path_factory.mktemp("conditions")
    (out / "data").mkdir()
    write_campaign(out / "data")
    extract = ("--data_dir", out / "data", "--output_path", out / "latents", "--img_size", 32, "--device", "cpu")
    assert run("microdoppler", "extract", *extract) == 0
    train = ("--latent_dir", out / "latents", "--output_dir", out / "run", "--batch_size", 3, "--max_epochs", 1)
    net = ("--model", "LightningDiT-N/4", "--model.net_settings", NET, "--trainer.accelerator", "cpu")
    assert run("microdoppler", "train", *train, *net, "--model.net_settings.patch_size", 1) == 0
    return out


def test_latents_have_the_codes_of_their_columns(outputs):
    file = LatentFile(outputs / "latents" / "train.safetensors")
    assert file.info.conditions.to_record() == RECORD and len(file) == 9
    labels = file.full_labels
    assert labels.dtype == np.float32 and labels[-1].tolist() == [1, 1, -1]
    assert sorted(labels[labels[:, 1] == 0, 2].tolist()) == pytest.approx([0.6, 0.8, 1.0])
    info = LatentDataModule(outputs / "latents").get_dataset_info()
    assert info["conditions"] == RECORD
    assert [row[:2] for row in info["combinations"]] == [[0, 0], [0, 1], [1, 1]]


def test_conditions_can_be_chosen_from_the_latents(outputs):
    chosen = LatentDataModule(outputs / "latents", batch_size=2, conditions=["speed"])
    assert list(chosen.get_dataset_info()["conditions"]) == ["speed"]
    assert next(iter(chosen.train_dataloader())).labels.shape == (2, 2)
    without = LatentDataModule(outputs / "latents", batch_size=2, conditions=[])
    assert "conditions" not in without.get_dataset_info()
    assert next(iter(without.train_dataloader())).labels.shape == (2,)
    with pytest.raises(ConfigError, match="did you mean speed"):
        LatentDataModule(outputs / "latents", conditions=["sped"]).setup()


def test_the_run_and_its_checkpoint_have_the_table(outputs, capsys):
    model = jitflow.load(outputs / "run", device="cpu")
    assert model.module.conditions == ConditionTable.of_record(RECORD)
    assert [row[:2] for row in model.module.combinations.to_record()] == [[0, 0], [0, 1], [1, 1]]
    assert run("info", outputs / "run" / "checkpoints" / "best.ckpt") == 0
    assert "activity: run, walk; speed: 1 to 3.5" in " ".join(capsys.readouterr().out.split())


def test_samples_are_asked_for_by_name(outputs, tmp_path):
    options = ("--conditions", "user=1,2,activity=run,speed=3", "--guide_by", "activity", "--steps", 2)
    drawn = ("--out", tmp_path / "drawn", "--count", 2, "--device", "cpu", *options)
    assert run("sample", outputs / "run", *drawn) == 0
    record = read_json(tmp_path / "drawn" / "generation.json")
    assert [entry["conditions"] for entry in record["images"]] == [{"activity": "run", "speed": 3.0}] * 4
    assert list(record["settings"]["unseen"]) == ["user 2, run, speed 3"]
    assert record["settings"]["guide_by"] == "activity"
    names = [f"micro_doppler_user0{user}_00{i}.png" for user in (1, 2) for i in (1, 2)]
    assert [entry["file"] for entry in record["images"]] == names
    stage_3 = ("--dit_checkpoint", outputs / "run", "--output_dir", tmp_path / "stage_3", "--num_steps", 2)
    asked = ("--user_ids", 1, "--num_samples_per_user", 2, "--conditions", "activity=run,walk", "--device", "cpu")
    assert run("microdoppler", "sample", *stage_3, *asked) == 0
    record = read_json(tmp_path / "stage_3" / "generation.json")
    assert [entry["conditions"]["activity"] for entry in record["images"]] == ["run", "run", "walk", "walk"]
    assert len({entry["seed"] for entry in record["images"]}) == 4


def test_a_run_does_not_go_on_with_other_conditions(outputs, capsys):
    again = ("--latent_dir", outputs / "latents", "--output_dir", outputs / "run", "--batch_size", 3)
    net = ("--model", "LightningDiT-N/4", "--model.net_settings", NET, "--trainer.accelerator", "cpu")
    words = ("microdoppler", "train", *again, "--max_epochs", 2, *net, "--model.net_settings.patch_size", 1)
    assert run(*words, "--data.conditions", "[speed]") != 0
    assert run(*words, "--model.conditions", "{speed: {range: [0, 9]}}") != 0
    assert capsys.readouterr().err.count("conditions") >= 2


def test_what_conditions_do_not_go_with_is_one_line(outputs, tmp_path, capsys):
    assert run("export", outputs / "run", tmp_path / "program", "--format", "torch_export") != 0
    message = capsys.readouterr().err
    assert "named conditions" in message and "Traceback" not in message
    assert run("export", outputs / "run", tmp_path / "weights") == 0
    drawn = jitflow.load(tmp_path / "weights", device="cpu").sample(users=[1], conditions="activity=run", steps=2)
    assert drawn.captions == ["user 1, run"]


@pytest.mark.parametrize(
    ("description", "error", "named"),
    [
        ("conditions: [gait]", ConfigError, "unknown column"),
        ("conditions: {activity: numbers}", DataError, "holds run, walk"),
        ("conditions: {activity: [walk, swim]}", DataError, "unknown activity 'run'"),
        ("conditions: {speed: [0, 2]}", DataError, "speed must be a number from 0 to 2"),
        ("conditions: {speed: fast}", ConfigError, "must be names, numbers"),
        ("conditions: activity", ConfigError, "must be a list of columns"),
    ],
)
def test_a_wrong_description_is_one_error(tmp_path, description, error, named):
    write_campaign(tmp_path, f"colour_map: none\n{description}\n")
    with pytest.raises(error, match=named):
        found = find_user_images(tmp_path)
        found.fingerprint()


def test_conditions_without_a_manifest_are_refused(tmp_path):
    (tmp_path / "ID_1").mkdir()
    for name in "ab":
        Image.new("RGB", (8, 8)).save(tmp_path / "ID_1" / f"{name}.png")
    (tmp_path / "spectrograms.yaml").write_text("conditions: [activity]")
    with pytest.raises(ConfigError, match="columns of a manifest"):
        find_user_images(tmp_path, val_fraction=0.5)


def test_the_fingerprint_knows_the_conditions(tmp_path):
    first = find_user_images(write_campaign(tmp_path)).fingerprint()
    other = find_user_images(write_campaign(tmp_path, "colour_map: none\nconditions: {activity: names}\n"))
    without = find_user_images(write_campaign(tmp_path, "colour_map: none\n"))
    assert len({first, other.fingerprint(), without.fingerprint()}) == 3


@pytest.fixture
def new_folder(tmp_path):
    """Four pictures of user 3, who runs at a known speed, with a manifest."""
    folder = tmp_path / "new"
    folder.mkdir()
    generator = np.random.default_rng(1)
    rows = ["path,user,activity,speed"]
    for i in range(4):
        Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        rows.append(f"{i}.png,3,run,{2 + i / 10}")
    (folder / "manifest.csv").write_text("\n".join(rows))
    return folder


def test_a_user_is_added_and_the_others_stay(outputs, new_folder, tmp_path):
    out = tmp_path / "more"
    options = ("--out", out, "--num_steps", 4, "--num_samples", 2, "--sampling_steps", 2, "--device", "cpu")
    assert run("microdoppler", "add-user", "--model", outputs / "run", "--data_dir", new_folder, *options) == 0
    old, new = (jitflow.load(path, device="cpu") for path in (outputs / "run", out))
    assert new.module.user_ids == [1, 2, 3] and new.module.num_classes == 3
    # The row of "any user" is the last again.
    rows = [torch.cat([t[:2], t[-1:]]) for t in (table_of(old), table_of(new))]
    assert torch.equal(*rows) and len(table_of(new)) == 4
    asked = {"users": [2], "conditions": "activity=walk,speed=1", "seeds": [3], "steps": 2}
    assert torch.equal(old.sample(**asked).pixels, new.sample(**asked).pixels)
    assert new.ask(users=[3], conditions="activity=run,speed=2.2").record.get("unseen") is None
    assert new.ask(users=[3], conditions="activity=walk").record["unseen"]
    report = read_json(out / "new_user.json")
    assert report["user_id"] == 3 and len(report["files"]) == 4 and report["num_copies"] in (0, 1, 2)
    assert report["nearest_given_median_of_given"] > 0
    assert (out / "nearest_pairs.png").is_file()
    assert len(read_json(out / "samples" / "generation.json")["images"]) == 2


def table_of(model):
    module = model.module
    weights = module.ema_params1 or dict(module.named_parameters())
    return weights["net.y_embedder.embedding_table.weight"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--user_id", 2), "not taken"),
        (("--learning_rate", 0), "learning_rate must be positive"),
        (("--num_samples", 1), "num_samples must be at least 2"),
        (("--data_dir", "nowhere"), "is not a folder"),
    ],
)
def test_a_user_that_cannot_be_added_is_one_line(outputs, new_folder, tmp_path, capsys, options, named):
    words = ("--model", outputs / "run", "--data_dir", new_folder, "--out", tmp_path / "more", *options)
    assert run("microdoppler", "add-user", *words) != 0
    message = capsys.readouterr().err
    assert named in message and "Traceback" not in message and not (tmp_path / "more").exists()
