"""Every loader of the library, with a valid file that it reads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers_folders import write_folder
from file_kinds import READERS
from fuzz_radar_targets import add_recordings, add_spectrograms
from PIL import Image
from safetensors.torch import save_file

from jitflow.apps.images.fast_decoder import load_crop_fast
from jitflow.apps.images.image_check import inspect_image
from jitflow.apps.images.module import JiTLightningModule
from jitflow.apps.images.prepare import prepare
from jitflow.apps.images.shards import ShardImages, open_shard_folder
from jitflow.apps.microdoppler.latent_file import LatentFile, LatentInfo
from jitflow.apps.text.files import TextFiles
from jitflow.apps.text.network import build_jit_model, load_pretrained_jit
from jitflow.apps.text.token_store import TextList, open_tokens, write_tokens
from jitflow.apps.text.tokenizer import ByteTokenizer, tokenizer_from_json
from jitflow.apps.text.tokenizer.bpe import train_bpe
from jitflow.apps.text.tokenizer.folder import load_tokenizer
from jitflow.apps.text.tokenizer.subword import tokenizers_library
from jitflow.checkpoint.find import resume_point
from jitflow.checkpoint.folder import LAST_NAME, CheckpointFolder
from jitflow.checkpoint.formats import read_state, write_state
from jitflow.checkpoint.lightning import to_lightning
from jitflow.checkpoint.load import load_module
from jitflow.checkpoint.state import ModelState
from jitflow.codec.latent import load_image_codec
from jitflow.codec.linear import LinearCodec
from jitflow.codec.vae import VAECodec, load_autoencoder
from jitflow.data.folder_scan import list_images
from jitflow.data.image_file import open_image
from jitflow.errors import ConfigError
from jitflow.evaluation.frechet import load_statistics, save_statistics
from jitflow.evaluation.protocol import read_report
from jitflow.inspect.info import describe_path
from jitflow.io.array_file import ArrayFileWriter, open_arrays
from jitflow.io.csv_file import iter_csv_rows
from jitflow.io.files import load_checkpoint, read_json
from jitflow.nets.autoencoder_kl import AutoencoderKL
from jitflow.nets.lightningdit import LightningDiT, detect_lightningdit, load_lightningdit_weights
from jitflow.run.curves import read_curves
from jitflow.run.folder import RUN_NAME, RunRecord, read_run_record, write_run_record
from jitflow.run.recipe import check_classes, find_recipe, read_recipe
from jitflow.run.report import write_report
from jitflow.run.settings import complete
from jitflow.training.posthoc_ema import read_snapshot, write_snapshot


@dataclass(frozen=True)
class Target:
    """One loader: a valid file, where the mutated one has to lie, and what reads it."""

    name: str
    valid: bytes
    path: Path
    load: Callable[[Path], Any]
    weight: int = 1

    @property
    def reader(self) -> str:
        """Kind of file, whose readers share their limits."""
        return next(reader for prefix, reader in READERS.items() if self.name.startswith(prefix))


Add = Callable[..., None]


def make_targets(folder: Path) -> list[Target]:
    """Write a valid file for every loader."""
    folder.mkdir(parents=True, exist_ok=True)
    found: list[Target] = []

    def add(name: str, source: Path, load: Callable[[Path], Any], weight: int = 2, path: Path | None = None) -> None:
        place = path or folder / "in" / name / source.name
        place.parent.mkdir(parents=True, exist_ok=True)
        found.append(Target(name, source.read_bytes(), place, load, weight))

    for add_some in (
        _add_checkpoints,
        _add_arrays,
        _add_tokenizers,
        _add_settings,
        _add_checkpoint_folder,
        _add_shards,
        _add_foreign_weights,
        _add_descriptions,
        _add_run,
        _add_image_readers,
        _add_tokenizer_folder,
        _add_images,
        _add_texts,
        add_spectrograms,
        add_recordings,
    ):
        add_some(add, folder)
    return found


def _add_checkpoints(add: Add, folder: Path) -> None:
    """Checkpoints of every format, and a snapshot of an average."""
    plain = {"w": torch.arange(6.0).reshape(2, 3), "n": [1, "x", {"a": None}], "half": torch.ones(2).half()}
    torch.save(plain, folder / "a.ckpt")
    torch.save(plain, folder / "old.ckpt", _use_new_zipfile_serialization=False)
    add("checkpoint zip", folder / "a.ckpt", load_checkpoint, 6)
    add("checkpoint legacy", folder / "old.ckpt", load_checkpoint, 6)

    net = {"depth": 2, "hidden_size": 8, "num_heads": 2, "bottleneck_dim": 4, "in_context_len": 2}
    torch.manual_seed(0)
    module = JiTLightningModule("JiT-N/4", 8, 2, in_channels=1, net_settings=net)
    weights = {name: value.detach().clone() for name, value in module.state_dict().items()}
    state = ModelState(
        settings=dict(module.hparams),
        weights=weights,
        ema1=dict(weights),
        epoch=1,
        step=3,
        module="jitflow.apps.images.module.JiTLightningModule",
    )
    torch.save(to_lightning(state), folder / "lightning.ckpt")
    write_state(state, folder / "release.pth")
    write_state(state, folder / "all.safetensors", ema="all")
    for name in ("lightning.ckpt", "release.pth", "all.safetensors"):
        add(f"state {name}", folder / name, read_state, 4)
        add(f"module {name}", folder / name, load_module, 1)

    written = write_snapshot(folder / "snapshots", weights, step=3, width=0.1, dtype="float32")
    add("snapshot", written, read_snapshot)


def _add_arrays(add: Add, folder: Path) -> None:
    """Arrays, latents and tokens."""
    layout = {"latents": ((3, 2, 2, 2), "float32"), "labels": ((3,), "int64"), "user_ids": ((3,), "int64")}
    info = LatentInfo((0.0, 0.0), (1.0, 1.0), "vae_f16d32", "0" * 64, (64, 64), "x")
    writer = ArrayFileWriter.create(folder / "train.safetensors", layout, info.to_metadata(), header_bytes=1024)
    writer.arrays["user_ids"][:] = 1
    writer.finish()
    add("arrays", folder / "train.safetensors", _read_arrays, 4)
    add("latents", folder / "train.safetensors", lambda path: LatentFile(path).check_finite(), 4)

    write_tokens(
        folder / "tokens.safetensors", TextList(["some words", "more words"]), ByteTokenizer(), val_fraction=0.0
    )
    add("tokens", folder / "tokens.safetensors", open_tokens)


def _add_tokenizers(add: Add, folder: Path) -> None:
    """Tokenizers in one JSON file."""
    (folder / "tokenizer.json").write_text(ByteTokenizer().to_json())
    read_tokenizer = _text_loader(tokenizer_from_json)
    add("tokenizer bytes", folder / "tokenizer.json", read_tokenizer, 1)
    try:
        tokenizers_library()
        (folder / "bpe.json").write_text(train_bpe(["low lower lowest new newer"] * 50, 300).to_json())
        add("tokenizer subword", folder / "bpe.json", read_tokenizer)
    except ConfigError:
        pass  # the library is optional


def _add_settings(add: Add, folder: Path) -> None:
    """JSON, a recipe, statistics and linear codecs."""
    (folder / "x.json").write_text('{"a": [1, 2.5, null, "x"], "b": {"c": true}}')
    add("json", folder / "x.json", read_json)
    add("recipe", find_recipe("images/digits"), lambda path: check_classes(read_recipe(path)), 3)
    save_statistics(folder / "stats.npz", np.zeros(3), np.eye(3))
    add("statistics", folder / "stats.npz", load_statistics, 4)
    codec = LinearCodec(torch.eye(12)[:2], torch.zeros(12), img_size=4)
    codec.export(folder / "linear.safetensors")
    add("linear codec", folder / "linear.safetensors", LinearCodec.from_file, 3)
    add("image codec", folder / "linear.safetensors", load_image_codec, 2)


def _add_checkpoint_folder(add: Add, folder: Path) -> None:
    """The manifest of a checkpoint folder, and a checkpoint beside one."""
    (folder / "run").mkdir()
    torch.save({"global_step": 1}, folder / "run" / LAST_NAME)
    checkpoints = CheckpointFolder(folder / "run")
    shutil.copy(folder / "run" / LAST_NAME, folder / "run" / ".x.pth")
    checkpoints.commit(folder / "run" / ".x.pth", LAST_NAME, kind="last", step=1)
    add("checkpoint manifest", checkpoints.manifest, lambda path: resume_point(path.parent), 2, checkpoints.manifest)
    last = folder / "run" / LAST_NAME
    (folder / "in" / "resume").mkdir(parents=True)
    shutil.copy(checkpoints.manifest, folder / "in" / "resume" / "manifest.json")
    add(
        "checkpoint beside manifest",
        last,
        lambda path: resume_point(path.parent),
        1,
        folder / "in" / "resume" / LAST_NAME,
    )


def _add_shards(add: Add, folder: Path) -> None:
    """The manifest of prepared images, and a shard."""
    draws = np.random.default_rng(0)
    pixels = draws.integers(0, 256, (12, 10, 3), np.uint8)
    for kind in ("a", "b"):
        (folder / "pictures" / "train" / kind).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(pixels).save(folder / "pictures" / "train" / kind / f"{i}.png")
    prepare(folder / "pictures", folder / "shards", img_size=8, workers=1)
    shards = folder / "shards"
    add("shard manifest", shards / "manifest.json", _read_shards, 3, shards / "manifest.json")
    shard = next(shards.rglob("*.safetensors"))
    copied = folder / "shards2"
    shutil.copytree(shards, copied)
    add("shard", shard, lambda path: _read_shards(copied / "manifest.json"), 2, copied / shard.relative_to(shards))


def _add_foreign_weights(add: Add, folder: Path) -> None:
    """Compressed statistics, and weights of other people."""
    np.savez_compressed(folder / "small.npz", mu=np.zeros(3), sigma=np.eye(3), num_images=9, extractor="x")
    add("statistics compressed", folder / "small.npz", load_statistics)
    tiny = {"embed_dim": 4, "ch": 32, "ch_mult": [1, 2], "resolution": 16, "num_res_blocks": 1, "attn_resolutions": [8]}
    vae = {name: value.clone() for name, value in AutoencoderKL(**tiny).state_dict().items()}
    save_file(vae, folder / "vae.safetensors")
    add("autoencoder", folder / "vae.safetensors", lambda path: load_autoencoder(path, tiny), 1)
    VAECodec(AutoencoderKL(**tiny), img_size=16).export(folder / "slim.safetensors")
    add("autoencoder slim", folder / "slim.safetensors", load_image_codec, 1)
    vae_folder = write_folder(folder / "vae", block_out_channels=[32, 32], latent_channels=1)
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        add(
            f"autoencoder folder {name}",
            vae_folder / name,
            lambda path: load_image_codec(path.parent),
            1,
            vae_folder / name,
        )
    sizes = {"depth": 2, "hidden_size": 8, "num_heads": 2, "bottleneck_dim": 4}
    torch.save({"model_state_dict": build_jit_model("JiT-N/4", 8, **sizes).state_dict()}, folder / "colour.pt")
    add("network of text", folder / "colour.pt", lambda path: load_pretrained_jit("JiT-N/4", path, 8, **sizes), 1)
    user = {"depth": 2, "hidden_size": 8, "num_heads": 2}
    latents = LightningDiT(input_size=4, in_channels=4, num_classes=2, **user)
    torch.save({"ema": latents.state_dict()}, folder / "user.pt")
    add("network of latents", folder / "user.pt", _detect, 1)


def _add_descriptions(add: Add, folder: Path) -> None:
    """What `jitflow info` describes."""
    for name in ("lightning.ckpt", "train.safetensors", "small.npz", "x.json", "a.ckpt"):
        add(f"info {name}", folder / name, describe_path, 1)
    add("info recipe", find_recipe("images/digits"), describe_path, 1)
    shards = folder / "shards3"
    shutil.copytree(folder / "shards", shards)
    add("info shards", shards / "manifest.json", lambda path: describe_path(path.parent), 1, shards / "manifest.json")


def _add_run(add: Add, folder: Path) -> None:
    """The files of a run."""
    run = folder / "whole"
    (run / "checkpoints").mkdir(parents=True)
    shutil.copy(folder / "lightning.ckpt", run / "checkpoints" / LAST_NAME)
    (run / "config.yaml").write_text("model: {class_path: x, init_args: {a: 1}}\ntrainer: {max_epochs: 3}\n")
    (run / "environment.json").write_text('{"seed": 1, "command": "jitflow train --run_dir x", "torch": "2"}')
    (run / "metrics.json").write_text('{"metrics": {"fid": 3.5}, "protocol": {"seed": 1}}')
    (run / "metrics.csv").write_text("epoch,step,train/loss,val/loss\n0,1,0.5,\n0,2,0.25,0.75\n")
    (run / "report.json").write_text('{"metrics": {"fid": 3.5}, "protocol": {"seed": 1}}')
    for name in ("config.yaml", "environment.json", "metrics.json", "metrics.csv"):
        add(f"run {name}", run / name, lambda path: describe_path(path.parent), 1, run / name)
        add(f"report of a run {name}", run / name, lambda path: write_report(path.parent), 1, run / name)
    add("settings of a run", find_recipe("images/digits"), lambda path: complete(read_recipe(path)), 1)
    write_run_record(run, RunRecord("images", complete(read_recipe("images/digits")), "running", epochs=3))
    add("record of a run", run / RUN_NAME, lambda path: read_run_record(path.parent), 1)
    add("curves", run / "metrics.csv", lambda path: read_curves(path.parent), 1)
    add("columns of a log", run / "metrics.csv", lambda path: list(iter_csv_rows(path)), 1)
    add("report", run / "report.json", read_report, 1)


def _add_image_readers(add: Add, folder: Path) -> None:
    """The list of an image folder, and the readers that are not the plain one."""
    listed = folder / "pictures" / "train"
    known = {name: [[name, (listed / name).stat().st_mtime_ns, ["0.png", "1.png"]]] for name in ("a", "b")}
    (folder / "scan.json").write_text(json.dumps({"format": 1, "classes": known}))
    add("list of images", folder / "scan.json", lambda path: list_images(path.parent), 2, listed / ".jitflow-scan.json")
    Image.fromarray(np.zeros((12, 10, 3), np.uint8)).save(folder / "plain.jpg")
    add("image fast", folder / "plain.jpg", lambda path: load_crop_fast(str(path), img_size=(8, 8)))
    add("image check", folder / "plain.jpg", inspect_image)


def _add_tokenizer_folder(add: Add, folder: Path) -> None:
    """A tokenizer folder."""
    if (folder / "bpe.json").exists():
        words = folder / "words"
        words.mkdir()
        definition = json.loads((folder / "bpe.json").read_text()).get("definition")
        (words / "tokenizer.json").write_text(definition if isinstance(definition, str) else json.dumps(definition))
        (words / "tokenizer_config.json").write_text('{"eos_token": "</s>", "pad_token": {"content": "<pad>"}}')
        for name in ("tokenizer.json", "tokenizer_config.json"):
            add(f"tokenizer folder {name}", words / name, lambda path: load_tokenizer(path.parent), 1, words / name)


def _add_images(add: Add, folder: Path) -> None:
    """Images of every format."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 10, 3), np.uint8)
    for ending, mode in (
        ("png", "RGB"), ("png", "P"), ("png", "I;16"), ("jpg", "RGB"), ("jpg", "CMYK"),
        ("gif", "P"), ("bmp", "RGB"), ("webp", "RGB"), ("tiff", "RGB"), ("ppm", "RGB"),
    ):  # fmt: skip
        image = Image.fromarray(pixels)
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
        path = folder / f"{mode.replace(';', '')}.{ending}"
        image.save(path)
        add(f"image {ending} {mode}", path, lambda path: open_image(str(path), channels=3), 3)


def _add_texts(add: Add, folder: Path) -> None:
    """Text files of every format."""
    (folder / "a.txt").write_text("Some words.\n\nAnd möre.\n" * 5)
    (folder / "a.jsonl").write_text('{"text": "some words"}\n{"prompt": "a", "answer": "b"}\n"x"\n')
    (folder / "b.json").write_text('["some words", {"text": "more"}, {"prompt": "a", "answer": "b"}]')
    for name in ("a.txt", "a.jsonl", "b.json"):
        add(f"text {name}", folder / name, lambda path: list(TextFiles(path).texts()))


def _read_arrays(path: Path) -> None:
    arrays, _ = open_arrays(path)
    for array in arrays.values():
        array.tobytes()


def _detect(path: Path) -> None:
    detect_lightningdit(load_lightningdit_weights(path), num_heads=2)


def _read_shards(path: Path) -> None:
    found = open_shard_folder(path.parent)
    for split in found.splits:
        images = ShardImages(found, split)
        if len(images):
            images.read_batch(torch.arange(len(images)))


def _text_loader(load: Callable[[str], Any]) -> Callable[[Path], Any]:
    return lambda path: load(path.read_bytes().decode("utf-8", "replace"))
