"""Make ``checkpoints_7ea7bf0/``: one small run of each kind as commit 7ea7bf0 wrote it, with samples that it drew.

    python tests/data/make_checkpoints.py

Six trainings (images, text, micro-Doppler; each as the documents write it and by a recipe), their data and two
samples of each. All of it runs in one folder with relative paths, so that no path of a machine is recorded. What a run
leaves besides and no test needs is not kept: event files of TensorBoard (named after the host), reports, caches of
tokens, and all checkpoints but the newest (of the documented micro-Doppler also the best, which is what is sampled
there). In environment.json the kernel's version is left out. The rates are high, so that samples show what was learned.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from comparison.inputs import make_text  # noqa: E402
from comparison.programs import process_environment  # noqa: E402
from comparison.worktree import checkout  # noqa: E402

COMMIT = "7ea7bf0"
TARGET = HERE / f"checkpoints_{COMMIT}"

JIT_NET = '{"hidden_size":16,"depth":1,"num_heads":2,"bottleneck_dim":8,"in_context_len":1,"in_context_start":0}'
TEXT_NET = '{"hidden_size":16,"depth":1,"num_heads":2,"bottleneck_dim":8}'
LATENT_NET = '{"hidden_size":16,"depth":1,"num_heads":2,"patch_size":1}'
CPU = "--trainer.accelerator cpu --trainer.devices 1 --trainer.log_every_n_steps 1"

IMAGES_DOCUMENTED = """
import lightning.pytorch as pl
from callbacks import create_default_callbacks
from datas.datamodule import JiTDataModule
from models.modelmodule import JiTLightningModule

pl.seed_everything(0)
model = JiTLightningModule(
    model_name="JiT-N/4", img_size=8, num_classes=2, learning_rate=2e-2, ema_decay1=0.9, ema_decay2=0.7,
    num_sampling_steps=4, cfg_scale=2.0, cfg_interval=(0.1, 1.0),
    net_settings=dict(hidden_size=16, depth=1, num_heads=2, bottleneck_dim=8, in_context_len=1, in_context_start=0),
)
data = JiTDataModule(data_path="data/images", img_size=8, batch_size=4, num_workers=0)
callbacks = create_default_callbacks(
    ema_decay1=0.9, ema_decay2=0.7, save_dir="images_documented", save_last_freq=100, img_size=8, epochs=10,
    warmup_epochs=1, enable_fid_eval=False,
)
trainer = pl.Trainer(
    max_epochs=10, accelerator="cpu", precision="32-true", callbacks=callbacks, logger=False, enable_progress_bar=False
)
trainer.fit(model, datamodule=data)
"""
TRAININGS = {
    "images_documented": "images_documented.py",
    "images_recipe": f"jitflow train --config images/digits --run_dir images_recipe --model.net_settings '{JIT_NET}' "
    "--model.img_size 8 --data.img_size 8 --model.ema_decay1 0.9 --model.ema_decay2 0.7 --schedule.warmup_epochs 1 "
    "--model.learning_rate 2e-2 --checkpoint.save_last_freq 100 --data.batch_size 32 --trainer.limit_train_batches 3 "
    f"--trainer.max_epochs 10 {CPU}",
    "text_documented": "train.py --data_path data/text.txt --output_dir text_documented --model JiT-N/4 --img_size 16 "
    f"--net_settings '{TEXT_NET}' --tokenizer bytes --epochs 1 --lr 1e-2 --warmup_epochs 0.5 --batch_size 64 "
    "--ema_decay 0.9 --log_interval 1 --accelerator cpu",
    "text_recipe": "jitflow train --config text/jit_n4_bytes --run_dir text_recipe --data.data_path data/text.txt "
    f"--model.net_settings '{TEXT_NET}' --model.img_size 16 --data.img_size 16 --data.batch_size 64 "
    "--model.learning_rate 1e-2 "
    f"--model.ema_decay1 0.9 --model.ema_decay2 0.7 --trainer.max_epochs 1 {CPU}",
    "microdoppler_documented": "stage2_train_dit.py --latent_dir data/latents --output_dir microdoppler_documented "
    f"--model LightningDiT-N/4 --net_settings '{LATENT_NET}' --batch_size 4 --max_epochs 5 --lr 2e-2 "
    "--precision 32-true --ema_decay 0.9 --accelerator cpu",
    "microdoppler_recipe": "jitflow train --config microdoppler/n4_5users --run_dir microdoppler_recipe "
    f"--model.net_settings '{LATENT_NET}' --model.num_users 2 --model.latent_shape [32,4,4] "
    "--data.latent_dir data/latents --data.batch_size 4 --model.ema_decay1 0.9 --model.ema_decay2 0.7 "
    f"--model.learning_rate 2e-2 --schedule.warmup_epochs 1 --trainer.max_epochs 5 {CPU}",
}
DATA = (
    "jitflow microdoppler simulate --output_dir gait --num_users 2 --images_per_user 6 --val_fraction 0.34 "
    "--img_size 64 --num_processes 1",
    "stage1_extract_features.py --data_dir gait --vavae_path builtin --output_path data/latents --img_size 64 "
    "--device cpu",
)
SAMPLES = {
    "images_documented": "jitflow sample images_documented/checkpoint-last.pth --labels 0-1",
    "images_recipe": "jitflow sample images_recipe/checkpoints/last.ckpt --labels 3,7",
    "text_documented": "jitflow text sample text_documented/checkpoint-last.pth --count 2",
    "text_recipe": "jitflow text sample text_recipe/checkpoints/last.ckpt --count 2",
    "microdoppler_documented": "jitflow microdoppler sample --dit_checkpoint "
    "microdoppler_documented/checkpoints/best.ckpt --user_ids 1 2 --num_samples_per_user 1",
    "microdoppler_recipe": "jitflow microdoppler sample --dit_checkpoint "
    "microdoppler_recipe/checkpoints/last.ckpt --user_ids 1 2 --num_samples_per_user 1",
}
# Guidance 2 where there is any; the solvers and all else are the models' own.
SAMPLE_OPTIONS = {
    "images": "--steps 4 --guidance 2 --seed 5 --device cpu --out {out}",
    "text": "--steps 4 --seed 5 --device cpu --out {out}",
    "microdoppler": "--num_steps 4 --guidance_scale 2 --seed 5 --device cpu --output_dir {out}",
}
# What stays of a run.
KEPT = (
    *("config.yaml", "environment.json", "training.json", "data.json", "manifest.json", "metrics.csv"),
    *("checkpoint-last.pth", "last.ckpt"),
)


def sample_command(name: str, out: str) -> str:
    """Return the command that draws two samples of a run into a folder."""
    return f"{SAMPLES[name]} {SAMPLE_OPTIONS[name.partition('_')[0]].format(out=out)}"


def main() -> None:
    """Make everything anew."""
    with tempfile.TemporaryDirectory() as place, checkout(COMMIT, Path(place) / "tree") as tree:
        folder = Path(place) / "made"
        folder.mkdir()
        _make_data(folder / "data")
        (folder / "images_documented.py").write_text(IMAGES_DOCUMENTED, encoding="utf-8")
        for line in (*DATA, *TRAININGS.values(), *(sample_command(name, f"expected/{name}") for name in SAMPLES)):
            _run(line, tree, folder)
        shutil.rmtree(TARGET, ignore_errors=True)
        for name in ("data", *TRAININGS, "expected"):
            _keep(folder / name, TARGET / name)


def _make_data(folder: Path) -> None:
    draws = np.random.default_rng(0)
    for label in range(2):
        place = folder / "images" / "train" / f"class{label}"
        place.mkdir(parents=True)
        for number in range(6):
            pixels = draws.integers(0, 128, (8, 8, 3)) + 100 * label
            Image.fromarray(pixels.astype(np.uint8)).save(place / f"{number}.png")
    (folder / "text.txt").write_text(make_text(), encoding="utf-8")


def _run(line: str, tree: Path, folder: Path) -> None:
    """Run a command as if ``jitflow`` or the script had been called by its bare name, which the run records."""
    words = shlex.split(line)
    own = folder / words[0]
    script = tree / "jitflow" / "__main__.py" if words[0] == "jitflow" else own if own.exists() else tree / words[0]
    start = f"import sys; sys.argv = {words!r}; exec(compile(open({str(script)!r}).read(), {words[0]!r}, 'exec'))"
    print(line.partition(" --")[0])
    subprocess.run([sys.executable, "-c", start], cwd=folder, env=process_environment(tree), check=True)


def _keep(source: Path, target: Path) -> None:
    """Copy what is kept of a folder: the data, the samples, the records and the newest checkpoint."""
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source.parent).as_posix()
        if path.is_file() and _is_kept(name):
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy, follow_symlinks=False)
            if path.name == "environment.json":
                record = json.loads(copy.read_text(encoding="utf-8"))
                copy.write_text(json.dumps({**record, "platform": "Linux"}, indent=2) + "\n", encoding="utf-8")


def _is_kept(name: str) -> bool:
    part, file = name.split("/")[0], name.rpartition("/")[2]
    if part == "data":
        return file.endswith(".safetensors") or name.startswith(("data/images/", "data/text.txt"))
    if part == "expected":
        return file.endswith(".png") and "grid" not in file
    return file in KEPT or name == "microdoppler_documented/checkpoints/best.ckpt"


if __name__ == "__main__":
    main()
