"""The pages of ``docs/`` and README.md, their blocks of code, and how each is executed.

A page is followed as a reader would: its blocks run in order in one folder, python in one namespace. What is changed
for that is declared in :data:`PAGES`, and a declaration that no longer meets the text is an error. A block with a line
``*Not run by the tests: why.*`` above it is shown to readers and not executed.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = "README.md"
NAMES = [README, *sorted(p.name for p in (ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(
    r"^(?:(?:<!-- not run: (?P<comment>[^\n]+) -->|\*Not run by the tests: (?P<line>[^\n]+)\.\*)\n+)?"
    r"```(?P<language>bash|python|yaml|toml)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_VARIABLE = re.compile(r"[A-Z_]+=")


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        page: File name of its page.
        number: From 1, in order of the page.
        language: ``bash``, ``python``, ``yaml`` or ``toml``.
        code: Its text.
        reason: Why it is not executed, or ``""``.
    """

    page: str
    number: int
    language: str
    code: str
    reason: str

    def __str__(self) -> str:
        return f"{self.page} {self.number}: {self.code.splitlines()[0]}"


@dataclass(frozen=True)
class Page:
    """How a page is executed.

    Attributes:
        replace: Parts of its text that are replaced in the blocks that run: sizes, paths, devices, epochs.
        more: Words put behind every command that begins so.
        leaves: Files that must be there at the end.
        variables: Environment of its commands.
        texts: Whether ``./data/train`` holds a little text.
        users: Whether ``./data_split`` holds pictures of two simulated users.
        needs: By a part of a block's text, the optional package without which that block is left out.
        slow: Run with ``pytest -m slow`` only.
    """

    replace: dict[str, str] = field(default_factory=dict)
    more: dict[str, str] = field(default_factory=dict)
    leaves: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    texts: bool = False
    users: bool = False
    needs: dict[str, str] = field(default_factory=dict)
    slow: bool = False


def text_of(page: str) -> str:
    """Text of a page by its file name."""
    return (ROOT / page if page == README else ROOT / "docs" / page).read_text(encoding="utf-8")


def blocks_of(page: str) -> list[Block]:
    """Every block of a page, in order."""
    return [
        Block(page, number, found["language"], found["code"], found["comment"] or found["line"] or "")
        for number, found in enumerate(_BLOCK.finditer(text_of(page)), start=1)
    ]


def all_blocks() -> list[Block]:
    """Every block of every page."""
    return [block for page in NAMES for block in blocks_of(page)]


def commands_of(block: Block, page: Page) -> list[list[str]]:
    """Words of each command of a bash block, with the page's changes made."""
    commands = []
    for line in replaced(block, page).replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            for beginning, more in page.more.items():
                start = sum(bool(_VARIABLE.match(word)) for word in words)
                if words[start : start + len(beginning.split())] == beginning.split():
                    words += shlex.split(more)
            commands.append(words)
    return commands


def replaced(block: Block, page: Page) -> str:
    """Text of a block with the page's replacements made."""
    code = block.code
    for old, new in page.replace.items():
        code = code.replace(old, new)
    return code


def stale(page: str) -> list[str]:
    """Declared changes that meet nothing in the blocks of their page which run."""
    case = PAGES.get(page, Page())
    running = [block for block in blocks_of(page) if not block.reason]
    code = "".join(block.code for block in running)
    begun = [" ".join(words) for b in running if b.language == "bash" for words in commands_of(b, case)]
    return [old for old in case.replace if old not in code] + [
        beginning for beginning in case.more if not any(beginning in words for words in begun)
    ]


# The images of the test are 32 of training and 8 of validation, 40 x 30 px.
_FEW = "--data.batch_size 8 --data.num_workers 0"
_SMALL_NET = {'"JiT-B/16"': '"JiT-N/4"', "img_size=256": "img_size=16"}
_FEW_SCORED = {"--num_images 1000": "--num_images 40", "--num_images 200": "--num_images 20"}
# What a dry run estimates and a training saves does not depend on how many blocks there are.
_SHALLOW = """--model.net_settings '{"depth": 2, "in_context_start": 1}'"""
_FEW_STEPS = "--trainer.limit_train_batches 4"
# A page that is not named here runs exactly as it stands.
PAGES = {
    README: Page(
        replace={**_SMALL_NET, **_FEW_SCORED, "batch_size=128": "batch_size=8", "max_epochs=600": "max_epochs=1"},
        more={
            "jitflow train --config images/jit_b16_256": f"{_FEW} {_SHALLOW}",
            "jitflow sample": "--steps 4",
            "jitflow evaluate": "--steps 4",
            "jitflow sweep": "--steps 4 --extractor pixels",
            "jitflow models": "'JiT-N*'",
            "jitflow train --config images/digits": f"--trainer.max_epochs 1 --schedule.warmup_epochs 0 {_FEW_STEPS}",
        },
        leaves=("three.png", "digits.safetensors", "outputs/digits/README.md", "data/imagenet-256/manifest.json"),
    ),
    # tests/documented/test_example_usage.py runs all patterns.
    "callbacks.md": Page(replace={"--pattern all": "--pattern schedule"}),
    "coming_from_jit.md": Page(
        more={"jitflow train": f"{_FEW} {_SHALLOW} --dry_run"},
        leaves=("run.ckpt", "back.pth", "model.safetensors", "fid_stats/mine.npz", "outputs/evaluation/report.json"),
    ),
    "coming_from_lightningdit.md": Page(leaves=("lightningdit.safetensors",)),
    "concept_averages.md": Page(more={"jitflow train": _SHALLOW}),
    "evaluation.md": Page(
        replace={
            **_FEW_SCORED,
            "--guidance 1:3:1": "--guidance 1:3:2",
            "--extractors digits --": "--extractors pixels --",
            "--extractors digits,digits-rotation,pixels": "--extractors digits-rotation,pixels",
            "--extractor digits": "--extractor pixels",
            "--num_images 350": "--num_images 20",
            "--steps 20": "--steps 4",
        },
        more={"jitflow stats": "--extractors pixels", "jitflow evaluate runs": "--steps 4"},
        leaves=(
            *("outputs/other/report.json", "outputs/comparison/comparison.png", "outputs/matrix/matrix.html"),
            "outputs/sweep/sweep.png",
            "fid_stats/jit_in256_stats.npz",
        ),
    ),
    "exporting.md": Page(
        replace={"num_inference_steps=50": "num_inference_steps=4"},
        needs={"diffusers": "diffusers"},
        leaves=("outputs/exported_weights/model.safetensors", "outputs/exported_program/velocity.pt2", "images"),
    ),
    "how_to.md": Page(leaves=("runs/tuned/checkpoints/last.ckpt",)),
    "large_runs.md": Page(
        # Eight processes share the images.
        more={
            "jitflow train": f"--data.batch_size 4 --data.num_workers 0 {_SHALLOW}",
            "jitflow train --config": "--trainer.accelerator cpu",
        }
    ),
    "gait_simulator.md": Page(
        replace={"--num_users 10 --images_per_user 100": "--num_users 1 --images_per_user 25 --num_processes 1"},
        more={"jitflow microdoppler simulate": "--window_sec 0.3"},
        leaves=("campaign_24/manifest.csv", "campaign_77/val/ID_1/ID_1_session5_fall_001.npz"),
    ),
    "methods.md": Page(more={"jitflow train": _FEW_STEPS}),
    "microdoppler.md": Page(
        replace={
            "--vavae_path pretrained/vavae-imagenet256-f16d32-dinov2.pt": "",
            "--devices 2": "--devices 1 --model LightningDiT-N/4",
            "--batch_size 32": "--batch_size 8",
            "--max_epochs 50": "--max_epochs 1",
            "--max_epochs 100": "--max_epochs 1",
            "1 2 3 4 5": "1 2",
            "--num_steps 250": "--num_steps 2",
            "--num_users 5 --images_per_user 150": "--num_users 2 --images_per_user 10",
            "--max_epochs 120": "--max_epochs 1 --batch_size 8",
            "--num_users 5 --recordings.radar ancortek --per_user 6": "--num_users 2 --recordings.radar doppler_24ghz",
        },
        more={
            "jitflow microdoppler extract": "--img_size 64",
            "jitflow microdoppler sample": "--num_steps 2",
            "jitflow microdoppler augment-study": "--users 2 --sessions 3 --per_session 4 --others 2 --width 64 "
            "--depth 1 --pretraining_steps 4 --generator_steps 4 --sampling_steps 2 --cnn_steps 4 --num_seeds 2",
        },
        users=True,
        leaves=(
            "runs/study/curve.png",
            "campaign_drawn/micro_doppler_user02_001.npz",
            "campaign_evaluation/confusion.png",
            "raw_walks/previews/ID_2-rec06.png",
            "raw_latents/train.safetensors",
        ),
        slow=True,
    ),
    "one_step.md": Page(
        replace={
            "--extractors digits,pixels": "--extractors pixels",
            "--judge digits-rotation": "--judge pixels:3",
            "--extractors digits-rotation --reference": "--extractors pixels:3 --reference",
            "--judge digits --": "--judge pixels --",
            "--updates 400": "--updates 2",
            "--num_first 5000": "--num_first 20",
            "--updates 800": "--updates 2",
            "--num_first 10000": "--num_first 20",
            "--num_judged 1000": "--num_judged 70",
            "size 128": "size 16",
        },
        leaves=("outputs/onestep/grid.png", "runs/onestep/checkpoints/best.ckpt"),
    ),
    "quick_start.md": Page(
        replace={
            "max_epochs: 100": "max_epochs: 2",
            "warmup_epochs: 5": "warmup_epochs: 1",
            "max_epochs 120": "max_epochs 3",
        },
        more={
            "jitflow train --config mine.yaml": _FEW_STEPS,
            "jitflow sample": "--steps 4",
            "python outputs/mine_program/sample.py": "--steps 4",
        },
        leaves=("three.png", "outputs/mine/grid.png", "outputs/mine_drawn", "runs/mine/report.html"),
    ),
    "text_as_colour.md": Page(
        replace={"EPOCHS=20": "OUTPUT_DIR=./run/other", "checkpoint_epoch_10": "checkpoint_epoch_1"},
        more={"python train.py": "--epochs 2 --output_dir output", "jitflow text sample": "--steps 2"},
        variables={"MODEL": "JiT-N/4", "IMG_SIZE": "32", "EPOCHS": "1", "WARMUP_EPOCHS": "0", "SAVE_INTERVAL": "1"},
        texts=True,
        slow=True,
    ),
}
