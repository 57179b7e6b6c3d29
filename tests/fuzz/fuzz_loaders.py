"""Feed damaged files to everything that reads files: each has to load or to raise an error of ours.

    python tests/fuzz/fuzz_loaders.py --inputs 100000 --seed 0

Valid files are mutated: flipped bits, other bytes, cuts, splices, numbers replaced by extreme ones, and, so that what
lies behind a checksum or a length is reached as well, changes inside the members of zip archives and inside the JSON
of headers. An input that makes a loader raise anything else, run for more than 20 seconds, take more than 4 GB or end
the process is kept in ``findings`` beside this file, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from jitflow.apps.images.fast_decoder import load_crop_fast
from jitflow.apps.images.image_check import inspect_image
from jitflow.apps.images.module import JiTLightningModule
from jitflow.apps.images.prepare import prepare
from jitflow.apps.images.shards import ShardImages, open_shard_folder
from jitflow.apps.microdoppler.data import LatentFile, LatentInfo
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
from jitflow.codec.vae import load_autoencoder
from jitflow.data.folder_scan import list_images
from jitflow.data.image_file import open_image
from jitflow.errors import ConfigError, JitflowError
from jitflow.evaluation.frechet import load_statistics, save_statistics
from jitflow.evaluation.protocol import read_report
from jitflow.inspect.info import describe_path
from jitflow.io.array_file import ArrayFileWriter, open_arrays
from jitflow.io.files import load_checkpoint, read_json
from jitflow.nets.autoencoder_kl import AutoencoderKL
from jitflow.nets.lightningdit import LightningDiT, detect_lightningdit, load_lightningdit_weights
from jitflow.run.curves import read_curves
from jitflow.run.folder import RUN_NAME, RunRecord, read_run_record, write_run_record
from jitflow.run.recipe import find_recipe, read_recipe
from jitflow.run.settings import complete
from jitflow.training.posthoc_ema import read_snapshot, write_snapshot

FINDINGS = Path(__file__).with_name("findings")
SECONDS, GIGABYTES = 20, 4
_EXTREME = (
    b"0",
    b"-1",
    b"1",
    b"255",
    b"65536",
    b"2147483648",
    b"9223372036854775807",
    b"99999999999999999999",
    b"1e309",
)
_ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    10**6,
    2**40,
    2**63,
    10**25,
    0.5,
    float("inf"),
    "",
    "x",
    "../../x",
    [],
    {},
    [[]],
)


@dataclass(frozen=True)
class Target:
    """One loader: a valid file, where the mutated one has to lie, and what reads it."""

    name: str
    valid: bytes
    path: Path
    load: Callable[[Path], Any]
    weight: int = 1


# ------------------------------------------------------------------------------------------------ mutations


def mutate(content: bytes, draws: random.Random) -> bytes:
    """Damage a file in one of many ways."""
    kinds: list[Callable[[bytes, random.Random], bytes]] = [_flip, _bytes, _cut, _splice, _numbers]
    if content[:2] == b"PK":
        kinds += [_member] * 4
    if content[8:9] == b"{" or content[:1] in b"{[":
        kinds += [_json] * 4
    for _ in range(draws.choice((1, 1, 1, 2, 3))):
        content = draws.choice(kinds)(content, draws)
    return content


def _flip(content: bytes, draws: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draws.randrange(1, 9) if changed else 0):
        changed[draws.randrange(len(changed))] ^= 1 << draws.randrange(8)
    return bytes(changed)


def _bytes(content: bytes, draws: random.Random) -> bytes:
    if not content:
        return draws.randbytes(8)
    place = draws.randrange(len(content))
    piece = draws.choice((draws.randbytes(draws.randrange(1, 9)), b"\xff" * 8, b"\0" * 8))
    return content[:place] + piece + content[place + len(piece) :]


def _cut(content: bytes, draws: random.Random) -> bytes:
    return content[: draws.randrange(len(content) + 1)]


def _splice(content: bytes, draws: random.Random) -> bytes:
    begin, end = sorted(draws.randrange(len(content) + 1) for _ in range(2))
    place = draws.randrange(len(content) + 1)
    piece = content[begin : min(end, begin + 200)]
    return content[:place] + piece + content[place + draws.choice((0, len(piece))) :]


def _numbers(content: bytes, draws: random.Random) -> bytes:
    found = list(re.finditer(rb"[0-9]+", content))
    if not found:
        return _bytes(content, draws)
    chosen = draws.choice(found)
    return content[: chosen.start()] + draws.choice(_EXTREME) + content[chosen.end() :]


def _member(content: bytes, draws: random.Random) -> bytes:
    """Change a member of an archive, and write the archive anew with checksums that fit."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [(info, archive.read(info)) for info in archive.infolist()]
    except Exception:  # noqa: BLE001 (a mutation of a mutation need not be an archive)
        return _flip(content, draws)
    if not members:
        return content
    # The smallest are the most telling: data.pkl, version, byteorder.
    chosen = min(draws.sample(range(len(members)), min(3, len(members))), key=lambda i: len(members[i][1]))
    changed = io.BytesIO()
    with zipfile.ZipFile(changed, "w") as archive:
        for place, (info, member) in enumerate(members):
            if place == chosen:
                action = draws.choice((_flip, _bytes, _cut, _splice, _numbers))
                member = action(member, draws)
            name = info.filename
            if place == chosen and draws.random() < 0.1:
                name = draws.choice(("../" + name, "/" + name, name[:-1], name + "x"))
            archive.writestr(zipfile.ZipInfo(name), member)
    return changed.getvalue()


def _json(content: bytes, draws: random.Random) -> bytes:
    """Change a value in a JSON text, or in the header of a safetensors file, whose length is corrected."""
    header = content[8:9] == b"{" and content[:1] not in b"{["
    text, rest = content, b""
    if header:
        size = int.from_bytes(content[:8], "little")
        text, rest = content[8 : 8 + size], content[8 + size :]
    try:
        value = json.loads(text)
    except ValueError:
        return _flip(content, draws)
    changed = json.dumps(_change(value, draws)).encode()
    if not header:
        return changed
    changed = changed.ljust(-(-len(changed) // 8) * 8)
    return len(changed).to_bytes(8, "little") + changed + rest


def _change(value: Any, draws: random.Random) -> Any:
    if isinstance(value, dict) and value and draws.random() < 0.85:
        key = draws.choice(list(value))
        if draws.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: _change(value[key], draws)}
    if isinstance(value, list) and value and draws.random() < 0.85:
        place = draws.randrange(len(value))
        return [*value[:place], _change(value[place], draws), *value[place + 1 :]]
    if isinstance(value, str) and value[:1] in ("{", "[") and draws.random() < 0.85:
        try:
            # Settings in metadata are JSON in a string.
            return json.dumps(_change(json.loads(value), draws))
        except ValueError:
            return value[:-1]
    return draws.choice(_ODD)


# -------------------------------------------------------------------------------------------------- targets


def make_targets(folder: Path) -> list[Target]:
    """Write a valid file for every loader."""
    folder.mkdir(parents=True, exist_ok=True)
    found: list[Target] = []

    def add(name: str, source: Path, load: Callable[[Path], Any], weight: int = 2, path: Path | None = None) -> None:
        place = path or folder / "in" / name / source.name
        place.parent.mkdir(parents=True, exist_ok=True)
        found.append(Target(name, source.read_bytes(), place, load, weight))

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

    (folder / "tokenizer.json").write_text(ByteTokenizer().to_json())
    read_tokenizer = _text_loader(tokenizer_from_json)
    add("tokenizer bytes", folder / "tokenizer.json", read_tokenizer, 1)
    try:
        tokenizers_library()
        (folder / "bpe.json").write_text(train_bpe(["low lower lowest new newer"] * 50, 300).to_json())
        add("tokenizer subword", folder / "bpe.json", read_tokenizer)
    except ConfigError:
        pass  # the library is optional

    (folder / "x.json").write_text('{"a": [1, 2.5, null, "x"], "b": {"c": true}}')
    add("json", folder / "x.json", read_json)
    add("recipe", find_recipe("images/digits"), read_recipe, 3)
    save_statistics(folder / "stats.npz", np.zeros(3), np.eye(3))
    add("statistics", folder / "stats.npz", load_statistics, 4)
    codec = LinearCodec(torch.eye(12)[:2], torch.zeros(12), img_size=4)
    codec.export(folder / "linear.safetensors")
    add("linear codec", folder / "linear.safetensors", LinearCodec.from_file, 3)
    add("image codec", folder / "linear.safetensors", load_image_codec, 2)

    (folder / "run").mkdir()
    torch.save({"global_step": 1}, folder / "run" / LAST_NAME)
    checkpoints = CheckpointFolder(folder / "run")
    shutil.copy(folder / "run" / LAST_NAME, folder / "run" / ".x.pth")
    checkpoints.put(folder / "run" / ".x.pth", LAST_NAME, kind="last", step=1)
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

    _add_more(add, folder)

    for ending, mode in (
        ("png", "RGB"), ("png", "P"), ("png", "I;16"), ("jpg", "RGB"), ("jpg", "CMYK"),
        ("gif", "P"), ("bmp", "RGB"), ("webp", "RGB"), ("tiff", "RGB"), ("ppm", "RGB"),
    ):  # fmt: skip
        image = Image.fromarray(pixels)
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
        path = folder / f"{mode.replace(';', '')}.{ending}"
        image.save(path)
        add(f"image {ending} {mode}", path, lambda path: open_image(str(path), channels=3), 3)

    (folder / "a.txt").write_text("Some words.\n\nAnd möre.\n" * 5)
    (folder / "a.jsonl").write_text('{"text": "some words"}\n{"prompt": "a", "answer": "b"}\n"x"\n')
    (folder / "b.json").write_text('["some words", {"text": "more"}, {"prompt": "a", "answer": "b"}]')
    for name in ("a.txt", "a.jsonl", "b.json"):
        add(f"text {name}", folder / name, lambda path: list(TextFiles(path).texts()))
    return found


def _add_more(add: Callable[..., None], folder: Path) -> None:
    """Loaders of other people's weights, of runs, and of what describes files."""
    np.savez_compressed(folder / "small.npz", mu=np.zeros(3), sigma=np.eye(3), num_images=9, extractor="x")
    add("statistics compressed", folder / "small.npz", load_statistics)
    tiny = {"embed_dim": 4, "ch": 32, "ch_mult": [1, 2], "resolution": 16, "num_res_blocks": 1, "attn_resolutions": [8]}
    vae = {name: value.clone() for name, value in AutoencoderKL(**tiny).state_dict().items()}
    save_file(vae, folder / "vae.safetensors")
    add("autoencoder", folder / "vae.safetensors", lambda path: load_autoencoder(path, tiny), 1)
    sizes = {"depth": 2, "hidden_size": 8, "num_heads": 2, "bottleneck_dim": 4}
    torch.save({"model_state_dict": build_jit_model("JiT-N/4", 8, **sizes).state_dict()}, folder / "colour.pt")
    add("network of text", folder / "colour.pt", lambda path: load_pretrained_jit("JiT-N/4", path, 8, **sizes), 1)
    user = {"depth": 2, "hidden_size": 8, "num_heads": 2}
    latents = LightningDiT(input_size=4, in_channels=4, num_classes=2, **user)
    torch.save({"ema": latents.state_dict()}, folder / "user.pt")
    add("network of latents", folder / "user.pt", _detect, 1)

    for name in ("lightning.ckpt", "train.safetensors", "small.npz", "x.json", "a.ckpt"):
        add(f"info {name}", folder / name, describe_path, 1)
    add("info recipe", find_recipe("images/digits"), describe_path, 1)
    shards = folder / "shards3"
    shutil.copytree(folder / "shards", shards)
    add("info shards", shards / "manifest.json", lambda path: describe_path(path.parent), 1, shards / "manifest.json")

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
    add("settings of a run", find_recipe("images/digits"), lambda path: complete(read_recipe(path)), 1)
    write_run_record(run, RunRecord("images", complete(read_recipe("images/digits")), "running", epochs=3))
    add("record of a run", run / RUN_NAME, lambda path: read_run_record(path.parent), 1)
    add("curves", run / "metrics.csv", lambda path: read_curves(path.parent), 1)
    add("report", run / "report.json", read_report, 1)

    listed = folder / "pictures" / "train"
    known = {name: [[name, (listed / name).stat().st_mtime_ns, ["0.png", "1.png"]]] for name in ("a", "b")}
    (folder / "scan.json").write_text(json.dumps({"format": 1, "classes": known}))
    add("list of images", folder / "scan.json", lambda path: list_images(path.parent), 2, listed / ".jitflow-scan.json")
    Image.fromarray(np.zeros((12, 10, 3), np.uint8)).save(folder / "plain.jpg")
    add("image fast", folder / "plain.jpg", lambda path: load_crop_fast(str(path), img_size=(8, 8)))
    add("image check", folder / "plain.jpg", inspect_image)
    if (folder / "bpe.json").exists():
        words = folder / "words"
        words.mkdir()
        definition = json.loads((folder / "bpe.json").read_text()).get("definition")
        (words / "tokenizer.json").write_text(definition if isinstance(definition, str) else json.dumps(definition))
        (words / "tokenizer_config.json").write_text('{"eos_token": "</s>", "pad_token": {"content": "<pad>"}}')
        for name in ("tokenizer.json", "tokenizer_config.json"):
            add(f"tokenizer folder {name}", words / name, lambda path: load_tokenizer(path.parent), 1, words / name)


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


# --------------------------------------------------------------------------------------------------- running


class TooSlow(BaseException):
    """A loader did not come back."""


def _alarm(number: int, frame: Any) -> None:
    raise TooSlow


def try_input(target: Target, content: bytes) -> str:
    """Load one input; ``loads``, ``refused``, or the traceback of what should not have happened."""
    target.path.write_bytes(content)
    signal.alarm(SECONDS)
    try:
        target.load(target.path)
    except JitflowError:
        return "refused"
    except (Exception, TooSlow):  # noqa: BLE001 (what it is looking for)
        return traceback.format_exc()
    finally:
        signal.alarm(0)
    return "loads"


def fuzz(target: Target, seed: int, first: int, number: int, results: Any) -> None:
    """Try inputs, in a process of its own, and tell the other one how each ended."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    sys.setrecursionlimit(1000)
    with Path("/proc/self/statm").open() as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + GIGABYTES * 2**30,) * 2)
    signal.signal(signal.SIGALRM, _alarm)
    for place in range(first, first + number):
        results.send((place, None))
        results.send((place, try_input(target, mutate(target.valid, random.Random(f"{seed} {target.name} {place}")))))
    results.send((-1, None))


def run_target(target: Target, seed: int, number: int) -> tuple[Counter[str], dict[str, tuple[int, str]]]:
    """Try inputs on one loader; go on in a new process if one dies.

    Returns:
        Counts of the outcomes, and for each kind of failure the first input and what happened.
    """
    counts: Counter[str] = Counter()
    failures: dict[str, tuple[int, str]] = {}
    done = 0
    while done < number:
        receiver, sender = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("fork").Process(
            target=fuzz, args=(target, seed, done, number - done, sender)
        )
        process.start()
        sender.close()
        place = done
        try:
            while True:
                place, outcome = receiver.recv()
                if place < 0:
                    break
                if outcome is not None:
                    done = place + 1
                    counts[outcome if outcome in ("loads", "refused") else "FAILS"] += 1
                    if outcome not in ("loads", "refused"):
                        lines = outcome.strip().splitlines()
                        where = next((line.strip() for line in reversed(lines) if "/jitflow/" in line), "")
                        failures.setdefault(f"{lines[-1].split(':')[0]} at {where}", (place, outcome))
        except EOFError:
            process.join()
            counts["DIES"] += 1
            failures.setdefault(f"the process ended with {process.exitcode}", (place, ""))
            done = place + 1
        process.join()
    return counts, failures


def main() -> int:
    """Fuzz all loaders; 0 if nothing but our own errors was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000, help="inputs in total")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="loaders whose name contains this word")
    given = parser.parse_args()
    base = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
    failed = 0
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="jitflow-fuzz-", dir=base) as folder:
        targets = [target for target in make_targets(Path(folder)) if given.only in target.name]
        weights = sum(target.weight for target in targets)
        for target in targets:
            number = -(-given.inputs * target.weight // weights)
            counts, failures = run_target(target, given.seed, number)
            target.path.write_bytes(target.valid)
            total.update(counts)
            print(f"{target.name:28s} {dict(sorted(counts.items()))}", flush=True)
            for kind, (place, outcome) in failures.items():
                failed += 1
                FINDINGS.mkdir(exist_ok=True)
                name = re.sub(r"\W+", "-", f"{target.name} {place}")
                content = mutate(target.valid, random.Random(f"{given.seed} {target.name} {place}"))
                (FINDINGS / name).write_bytes(content)
                print(f"  {kind}: {name}\n    " + "\n    ".join(outcome.strip().splitlines()[-4:]), flush=True)
    print(f"{sum(total.values())} inputs, seed {given.seed}: {dict(sorted(total.items()))}; {failed} kinds of failure")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
