"""Held-out judges: what a training optimised stays with its weights, and marks its scores wherever they are shown."""

import pytest
import torch
from evaluation_runs import fit, make_module
from rich.console import Console

import jitflow
from jitflow.checkpoint.convert import convert
from jitflow.checkpoint.formats import read_state
from jitflow.checkpoint.load import init_from
from jitflow.errors import CheckpointError
from jitflow.evaluation.evaluate import evaluate
from jitflow.evaluation.plan import Plan
from jitflow.evaluation.report import TRAINED_ON, is_trained_on, score_table
from jitflow.export.export import export
from jitflow.inspect.info import describe_path
from jitflow.training.terms import CosineTerm
from jitflow.training.trained_on import is_same_space, merge_spaces, optimised_spaces, read_spaces

SPACE = "pixels-1x4x4"


class JudgedTerm:
    """A loss on the features of an extractor, as a post-training on Frechet distances would be."""

    name, weight = "judged", 0.1
    feature_spaces = (SPACE,)

    def __call__(self, state):
        return state.output.flatten(1).mean(dim=1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    module = make_module()
    module.add_loss_term(JudgedTerm())
    path = tmp_path_factory.mktemp("trained") / "last.ckpt"
    fit(module).save_checkpoint(path)
    return path


def text_of(table):
    console = Console(width=120)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


@pytest.mark.parametrize("suffix", [".ckpt", ".pth", ".safetensors"])
def test_every_format_keeps_the_spaces(trained, tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    convert(trained, path)
    assert read_state(path).trained_on == (SPACE,)
    again = tmp_path / "again.ckpt"
    convert(path, again)
    assert jitflow.load(again, device="cpu").module.trained_on == (SPACE,)
    assert SPACE in describe_path(path).facts["note"]


def test_a_training_that_goes_on_from_the_weights_inherits_them(trained, tmp_path):
    module = make_module()
    init_from(module, trained)
    module.add_loss_term(CosineTerm())
    fit(module).save_checkpoint(tmp_path / "tuned.ckpt")
    assert read_state(tmp_path / "tuned.ckpt").trained_on == (SPACE,)
    fit(plain := make_module()).save_checkpoint(tmp_path / "plain.ckpt")
    assert plain.trained_on == () and read_state(tmp_path / "plain.ckpt").trained_on == ()


def test_scores_in_the_space_are_marked_and_others_are_not(trained, tmp_path):
    def judged(extractor):
        plan = Plan(20, ema=0, steps=1)
        return evaluate(
            trained, plan, reference="digits:val", extractors=extractor, device="cpu", out=tmp_path / extractor[-1]
        )

    own, other = judged("pixels:4"), judged("pixels:3")
    assert own["trained_on"] == other["trained_on"] == [SPACE]
    assert all(is_trained_on(name, own) for name in own["metrics"] if "/" not in name)
    assert not any(is_trained_on(name, other) for name in other["metrics"])
    assert TRAINED_ON in text_of(score_table(own)) and TRAINED_ON not in text_of(score_table(other))
    facts = describe_path(tmp_path / "4" / "report.json").facts
    assert facts["frechet_distance"].endswith(TRAINED_ON) and not facts["thumbnails/copies"].endswith(TRAINED_ON)
    card = (export(trained, tmp_path / "out", ema=0, report=tmp_path / "4") / "README.md").read_text()
    assert f"trained on the features of {SPACE}" in card
    marked = [line.endswith(f"| {TRAINED_ON} |") for line in card.splitlines() if line.startswith("| frechet")]
    assert marked and all(marked)


def test_names_of_a_matrix_and_of_image_sizes():
    report = {
        "trained_on": ["vit_large_patch14_dinov2@224"],
        "protocol": {"extractor": {"dinov2": "vit_large_patch14_dinov2@518", "mae": "vit_large_patch16_224.mae"}},
    }
    assert is_trained_on("guided,balanced/dinov2/kid", report) and not is_trained_on("guided,balanced/mae/kid", report)
    # A mean over spaces is no held-out judge if one of them is none.
    assert is_trained_on("guided,balanced/fdr2/arithmetic", report) and not is_trained_on("thumbnails/copies", report)
    assert not is_same_space("pixels-1x4x4", "pixels-1x8x8")
    # A tag may be left out, but two tags are two networks.
    assert is_same_space("vgg16@64", "vgg16.tv_in1k@224") and not is_same_space("vit.mae@224", "vit.augreg_in1k@224")


def test_terms_of_no_weight_train_nothing_and_damage_is_said():
    silent = JudgedTerm()
    silent.weight = 0.0
    assert optimised_spaces([silent, CosineTerm()]) == () and optimised_spaces([JudgedTerm()]) == (SPACE,)
    assert merge_spaces(["a", "b"], ["b", "c"]) == ("a", "b", "c")
    for damaged in ("inception", 3, [torch.zeros(1)]):
        with pytest.raises(CheckpointError, match="damaged"):
            read_spaces({"trained_on": damaged})
