"""What leaves this library draws what this library draws."""

import functools
import json
import subprocess

import pytest
import torch
import yaml
from forked_python import forked_python
from PIL import Image
from safetensors.torch import load_file

import jitflow
from jitflow.apps.images.module import JiTLightningModule
from jitflow.apps.microdoppler.module import UserConditionedDiT
from jitflow.checkpoint.formats import read_state, write_state
from jitflow.checkpoint.state import ModelState
from jitflow.cli import main
from jitflow.codec.linear import LinearCodec
from jitflow.errors import CheckpointError, ConfigError
from jitflow.export.export import export
from jitflow.export.standalone_sampler import sample as standalone
from jitflow.inspect.info import describe_path
from jitflow.io.files import file_checksum, write_json

LABELS, SEEDS = [3, 0, 1], [5, 6, 7]
DIT = {"patch_size": 1, "hidden_size": 32, "depth": 2, "num_heads": 2, "use_rope": True, "use_rmsnorm": True}


def saved(module, path):
    """Write a checkpoint of weights and of two averages that differ from them and from each other."""
    generator = torch.Generator().manual_seed(1)

    def moved(value):
        return value + 0.1 * torch.randn(value.shape, generator=generator)

    with torch.no_grad():
        for p in module.parameters():
            p.copy_(moved(p))
    for average in (module.ema_params1, module.ema_params2):
        average.update({name: moved(p.detach()) for name, p in module.named_parameters()})
    checkpoint = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams), "epoch": 4}
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)
    return path


@pytest.fixture(scope="module")
def image_run(tmp_path_factory):
    """The folder of a run of the image application, on rectangular colour images."""
    run = tmp_path_factory.mktemp("run")
    (run / "checkpoints").mkdir()
    torch.manual_seed(0)
    module = JiTLightningModule(
        "JiT-N/4",
        img_size=(16, 24),
        num_classes=5,
        num_sampling_steps=4,
        cfg_scale=2.0,
        cfg_interval=(0.1, 0.8),
        net_settings={"depth": 2, "in_context_start": 1},
    )
    module.adopt_data({"classes": ["wren", "blue tit", "owl", "crow", "猫"]})
    saved(module, run / "checkpoints" / "last.ckpt")
    data = {"class_path": "a.Module", "init_args": {"data_path": "/home/somebody/secret/birds", "batch_size": 8}}
    (run / "config.yaml").write_text(yaml.safe_dump({"data": data}))
    return run


@pytest.fixture(scope="module")
def images(image_run):
    return image_run / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="module")
def latents(tmp_path_factory):
    """A checkpoint of the latent application, whose linear codec makes 8 x 8 images of 4 x 2 x 2 latents."""
    folder = tmp_path_factory.mktemp("latents")
    pixels = torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    linear = LinearCodec.fit([pixels], num_components=4, patch_size=4)
    linear.export(folder / "linear_codec.safetensors")
    torch.manual_seed(0)
    module = UserConditionedDiT(
        num_users=4, model_name="LightningDiT", latent_shape=(4, 2, 2), net_settings=DIT, num_sampling_steps=4
    )
    module.adopt_data(
        {
            "num_classes": 4,
            "user_ids": [2, 4, 6, 8],
            "mean": [0.5, -1.0, 0.0, 2.0],
            "std": [100.0, 50.0, 20.0, 10.0],
            "codec": {"id": linear.id, "checksum": linear.checksum, "img_size": [8, 8]},
            "linear_codec": folder / "linear_codec.safetensors",
        }
    )
    return saved(module, folder / "best.ckpt")


@pytest.fixture(params=["images", "latents"])
def checkpoint(request):
    return request.getfixturevalue(request.param)


def ours(path, **settings):
    return jitflow.load(path, device="cpu").sample(LABELS, SEEDS, **settings).pixels


def same(a, b):
    """Equal to 1e-4 before rounding: an error e changes a level at random for a share 127.5 e of the pixels."""
    difference = (a.int() - b.int()).abs()
    assert a.shape == b.shape
    assert difference.max() <= 1 and (difference > 0).float().mean() < 0.01
    return True


# ----------------------------------------------------------------------------------------- safetensors


@pytest.mark.parametrize("ema", [0, 1, 2])
def test_safetensors_holds_the_weights_bit_by_bit(checkpoint, tmp_path, ema):
    folder = export(checkpoint, tmp_path / "out", ema=ema)
    written = load_file(folder / "model.safetensors")
    state = read_state(checkpoint)
    expected = state.chosen(ema)
    assert {"net." + name for name in written if not name.startswith("extra.")} == set(expected)
    assert all(torch.equal(written[name.removeprefix("net.")], value) for name, value in expected.items())
    # The folder stands for its file.
    assert torch.equal(ours(folder, ema=ema), ours(checkpoint, ema=ema))
    assert describe_path(folder).path == folder / "model.safetensors"


def test_card_says_what_is_known_and_no_more(image_run, images, tmp_path):
    report = {"metrics": {"fid": 12.345, "num": 3}, "protocol": {"checkpoint": "/home/somebody/x.ckpt"}}
    report["protocol"].update(checkpoint_sha256=file_checksum(images), ema=1, solver="heun", steps=50)
    write_json(image_run / "evaluation" / "report.json", report)
    write_json(image_run / "other" / "report.json", {**report, "protocol": {"checkpoint_sha256": "0", "ema": 1}})
    write_json(image_run / "report.json", {"not": "a report"})
    card = (export(images, tmp_path / "a", license="cc-by-4.0") / "README.md").read_text()
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "cc-by-4.0" and "under `cc-by-4.0`" in body
    assert body.count("| fid |") == 1 and "| fid | 12.35 |" in body and "solver: heun" in body
    assert "data_path: birds" in body and "somebody" not in card and "- blue tit" in body
    # Scores of one average are not those of another.
    card = (export(images, tmp_path / "b", ema=2) / "README.md").read_text()
    assert "None recorded for these weights" in card and "license: unknown" in card and "not stated" in card
    with pytest.raises(ConfigError, match="scores another checkpoint"):
        export(images, tmp_path / "c", report=image_run / "other")
    with pytest.raises(ConfigError, match="scores EMA 1"):
        export(images, tmp_path / "c", report=image_run / "evaluation", ema=2)


# ---------------------------------------------------------------------------------------- torch.export


@pytest.fixture(scope="module")
def programs(images, latents, tmp_path_factory):
    folder = tmp_path_factory.mktemp("programs")
    return {path: export(path, folder / path.stem, format="torch_export") for path in (images, latents)}


@pytest.fixture(scope="module")
def loaded_once():
    """Loading a program takes longer than drawing with it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.export, "load", functools.cache(torch.export.load))
        yield


@pytest.mark.parametrize("solver", ["euler", "heun", "midpoint", "multistep"])
def test_programs_draw_the_same_images(checkpoint, programs, loaded_once, solver):
    drawn = standalone(programs[checkpoint], LABELS, SEEDS, solver=solver)
    assert same(drawn, ours(checkpoint, solver=solver))
    assert not torch.equal(drawn, ours(checkpoint, solver=solver, ema=0))
    more = standalone(programs[checkpoint], LABELS[:1], SEEDS[:1], solver=solver, steps=10, guidance=1.0)
    assert same(more, ours(checkpoint, solver=solver, steps=10, guidance=1.0)[:1])


def test_the_script_needs_torch_only(images, programs, tmp_path):
    folder = programs[images]
    assert describe_path(folder).kind == "exported program" and "crow" in describe_path(folder).facts["classes"]
    assert json.loads((folder / "sampling.json").read_text())["checked"]["largest_difference"] <= 1e-4
    block = "import sys; sys.modules['jitflow'] = None; import runpy; sys.argv = sys.argv[1:]; "
    words = [folder / "sample.py", "--labels", "crow,0", "--seeds", "5,6", "--out", tmp_path]
    code = block + "runpy.run_path(sys.argv[0], run_name='__main__')"
    kept = tmp_path / "000000_crow_seed5.png"
    run = functools.partial(subprocess.run, capture_output=True, text=True, cwd=tmp_path, timeout=200)
    for out in (tmp_path, tmp_path.with_name(f"{tmp_path.name}-2")):
        done = run([forked_python(), "-c", code, *map(str, words)], check=True)
        assert done.stdout == f"2 images in {out}\n" and (out / kept.name).is_file()
    refused = run([forked_python(), "-c", code, *map(str, [folder / "sample.py", "--labels", "99", "--seeds", "1"])])
    assert refused.returncode == 2 and "--labels" in refused.stderr
    expected = ours(images)
    for pixels, name in zip(expected, (kept.name, "000001_wren_seed6.png"), strict=False):
        made = torch.frombuffer(bytearray(Image.open(tmp_path / name).tobytes()), dtype=torch.uint8)
        assert same(made.view(16, 24, 3).permute(2, 0, 1), pixels)


# ------------------------------------------------------------------------------------------- diffusers


@pytest.fixture(scope="module")
def pipelines(images, latents, tmp_path_factory):
    diffusers = pytest.importorskip("diffusers", reason="the extra diffusers is not installed")
    # A place of its own for the code that diffusers copies from the folder.
    root = tmp_path_factory.mktemp("diffusers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(root / "modules"))
        made = {}
        for path in (images, latents):
            folder = export(path, root / path.stem, format="diffusers")
            made[path] = diffusers.DiffusionPipeline.from_pretrained(str(folder), trust_remote_code=True)
            made[path].set_progress_bar_config(disable=True)
        yield made


def test_pipeline_draws_the_same_images(checkpoint, pipelines):
    pipe = pipelines[checkpoint]
    drawn = pipe(class_labels=LABELS, seeds=SEEDS, output_type="pt").images
    assert same(drawn * 255, ours(checkpoint))
    assert not torch.equal((drawn * 255).to(torch.uint8), ours(checkpoint, ema=0))
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    settings = {"num_inference_steps": 6, "guidance_scale": 3.0}
    drawn = pipe(class_labels=LABELS, generator=generators, solver="euler", output_type="np", **settings).images
    expected = ours(checkpoint, steps=6, guidance=3.0, solver="euler")
    assert same(torch.from_numpy(drawn).permute(0, 3, 1, 2) * 255, expected)
    names = jitflow.load(checkpoint, device="cpu").module.class_names
    named = pipe(class_labels=[names[y] for y in LABELS], seeds=SEEDS, output_type="pt").images
    assert same(named * 255, ours(checkpoint))
    # What was asked for once is not kept.
    assert same(pipe(class_labels=LABELS, seeds=SEEDS, output_type="pt", return_dict=False)[0] * 255, ours(checkpoint))


def test_pipeline_knows_users_and_pictures(images, latents, pipelines):
    by_number = pipelines[latents](user_ids=[8, 2, 4], seeds=SEEDS).images
    assert by_number == pipelines[latents](class_labels=LABELS, seeds=SEEDS).images
    assert by_number[0].size == (8, 8)
    assert pipelines[images](class_labels=2, seeds=[0]).images[0].size == (24, 16)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({}, "one of them"),
        ({"class_labels": [0], "user_ids": [2]}, "one of them"),
        ({"user_ids": [2]}, "'users' means nothing"),
        ({"class_labels": [9]}, "out of range"),
        ({"class_labels": [0], "seeds": [1, 2]}, "2 seeds were given for 1"),
        ({"class_labels": [0], "seeds": [1], "generator": torch.Generator()}, "give one of them"),
        ({"class_labels": [0], "output_type": "latent"}, "must be one of"),
    ],
)
def test_pipeline_refuses(images, pipelines, words, said):
    with pytest.raises(ConfigError, match=said):
        pipelines[images](**words)


def test_pipeline_needs_to_be_trusted(images, tmp_path):
    diffusers = pytest.importorskip("diffusers", reason="the extra diffusers is not installed")
    folder = export(images, tmp_path / "out", format="diffusers")
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        diffusers.DiffusionPipeline.from_pretrained(str(folder))


# -------------------------------------------------------------------------------------------- refusals


def test_nothing_is_left_of_an_export_that_fails(images, tmp_path):
    state = read_state(images)
    # A program of weights that are not finite cannot equal its model.
    for weights in (state.weights, state.ema1, state.ema2):
        weights.update({name: torch.full_like(value, float("nan")) for name, value in weights.items()})
    damaged = write_state(replaced(state), tmp_path / "damaged.ckpt")
    with pytest.raises(CheckpointError, match="nothing was written"):
        export(damaged, tmp_path / "out", format="torch_export")
    assert list(tmp_path.iterdir()) == [damaged]


def test_refusals_come_before_any_work(images, latents, tmp_path):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine.txt").write_text("kept")
    with pytest.raises(ConfigError, match="exists already"):
        export(images, taken)
    with pytest.raises(ConfigError, match="did you mean diffusers"):
        export(images, tmp_path / "x", format="difusers")
    with pytest.raises(ConfigError, match="ema must be"):
        export(images, tmp_path / "x", format="diffusers", ema="all")
    with pytest.raises(ConfigError, match="vavae_path"):
        export(images, tmp_path / "x", vavae_path="vae.pt")
    state = read_state(latents)
    state.extra["latents"].pop("linear")
    bare = write_state(replaced(state), tmp_path / "bare.ckpt")
    with pytest.raises(ConfigError, match="--vavae_path"):
        export(bare, tmp_path / "x", format="torch_export")
    # The weights alone need no codec.
    assert export(bare, tmp_path / "weights").is_dir()
    state.application = "text"
    words = write_state(replaced(state), tmp_path / "words.ckpt")
    with pytest.raises(ConfigError, match="text models"):
        export(words, tmp_path / "x", format="torch_export")
    assert not (tmp_path / "x").exists()


def replaced(state):
    return ModelState(**{**vars(state), "lightning": None})


def test_command(images, tmp_path, capsys):
    pytest.importorskip("jsonargparse")
    from jitflow.verbs.export import export as command

    command([str(images), str(tmp_path / "out"), "--dry-run"])
    assert not (tmp_path / "out").exists()
    command([str(images), str(tmp_path / "out"), "--ema", "all", "--license", "mit"])
    assert (tmp_path / "out" / "README.md").is_file()
    state = read_state(tmp_path / "out" / "model.safetensors")
    assert state.ema1 is not None and state.ema2 is not None
    assert main(["convert", str(tmp_path / "out" / "model.safetensors"), str(tmp_path / "back.ckpt")]) == 0
