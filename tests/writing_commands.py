"""Every command that writes, on small inputs, for tests of where it writes.

``{in}`` stands for a copy of the small runs in tests/data, ``{out}`` for what the command is told to write.
"""

from __future__ import annotations

import shlex
from pathlib import Path

SMALL = Path(__file__).parent / "data" / "checkpoints_7ea7bf0"
_IMAGES = "{in}/images_recipe/checkpoints/last.ckpt"
_TEXT = "{in}/text_recipe/checkpoints/last.ckpt"
_USERS = "{in}/microdoppler_recipe/checkpoints/last.ckpt"
_NET = "--model.net_settings '{{hidden_size: 16, depth: 1, num_heads: 2, bottleneck_dim: 8, in_context_start: 0}}'"
_CPU = "--trainer.accelerator cpu --trainer.limit_train_batches 1 --trainer.limit_val_batches 1"
_PIXELS = "--extractor pixels --num_workers 0"

# A command by name; in the line, the option of what it writes comes last, if it has one.
COMMANDS = {
    "train": f"train --config images/digits {_NET} --model.img_size 8 --data.img_size 8 --trainer.max_epochs 1 {_CPU} "
    "--run_dir {out}",
    "text train": f"text train --data_path {{in}}/data/text.txt --model JiT-N/4 --img_size 16 {_NET} --max_steps 1 "
    "--batch_size 2 --trainer.accelerator cpu --output_dir {out}",
    "microdoppler train": "microdoppler train --latent_dir {in}/data/latents --model LightningDiT-N/4 --batch_size 4 "
    "--model.net_settings '{{hidden_size: 16, depth: 1, num_heads: 2, patch_size: 1}}' --max_steps 1 "
    "--precision 32-true --trainer.accelerator cpu --output_dir {out}",
    "onestep": f"onestep {_IMAGES} --extractors pixels:4 --reference {{in}}/data/images/train --updates 1 "
    "--batch_size 4 --num_first 4 --accelerator cpu --run_dir {out}",
    "sample": f"sample {_IMAGES} --labels 3 --steps 1 --device cpu --out {{out}}",
    "sample, of text": f"sample {_TEXT} --count 1 --steps 1 --device cpu --out {{out}}",
    "sample, of users": f"sample {_USERS} --users 1 --steps 1 --device cpu --out {{out}}",
    "microdoppler sample": f"microdoppler sample --dit_checkpoint {_USERS} --user_ids 1 --num_samples_per_user 1 "
    "--num_steps 1 --device cpu --output_dir {out}",
    "invert": f"invert {_IMAGES} {{in}}/data/images/train --steps 4 --device cpu --out {{out}}",
    "convert to safetensors": f"convert {_IMAGES} {{out}}.safetensors",
    "convert to a release": f"convert {_IMAGES} {{out}}.pth",
    "convert to Lightning": f"convert {_IMAGES} {{out}}.ckpt",
    "evaluate": f"evaluate {_IMAGES} --reference {{in}}/data/images/train --extractor pixels --num_images 10 --steps 1 "
    "--device cpu --out {out}",
    "evaluate, of text": f"evaluate {_TEXT} --val_path {{in}}/data/short.txt --num_texts 2 --steps 1 --device cpu "
    "--out {out}",
    "compare": f"compare {_IMAGES} {_IMAGES} --seeds 1 --steps 1 --device cpu --out {{out}}",
    "stats": f"stats {{in}}/data/images --img_size 8 {_PIXELS} --out {{out}}.npz",
    "sweep": f"sweep {_IMAGES} --guidance 1 --reference {{in}}/data/images/train --extractor pixels --num_images 10 "
    "--steps 1 --device cpu --out {out}",
    "data prepare": "data prepare {in}/data/images {out} --img_size 8 --workers 1",
    "data check": "data check {in}/data/images --workers 1 --out {out}",
    "export": f"export {_IMAGES} {{out}} --license mit",
    "report": "report {in}/images_recipe --out {out}.html",
    "microdoppler simulate": "microdoppler simulate --num_users 1 --images_per_user 2 --img_size 32 --num_processes 1 "
    "--val_fraction 0.5 --output_dir {out}",
    "microdoppler extract": "microdoppler extract --data_dir {in}/gait --vavae_path builtin --img_size 64 --device cpu "
    "--output_path {out}",
    "microdoppler evaluate": "microdoppler evaluate --data_dir {in}/gait --generated_dir {in}/gait/train --out {out}",
    "demo images": "demo images --out {out}",
    "demo text": "demo text --out {out}",
    "demo microdoppler": "demo microdoppler --out {out}",
}
# Commands that take long where they can write.
LONG = ("evaluate, of text", "microdoppler evaluate", "demo images", "demo text", "demo microdoppler")


def words_of(command: str, *, given: str, out: str) -> list[str]:
    """Words of a command line after ``jitflow``, with its inputs and what it writes."""
    return [word.format(**{"in": given, "out": out}) for word in shlex.split(COMMANDS[command])]
