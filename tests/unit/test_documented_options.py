"""Documented options of trainings: what follows from them, and the same recipe from Python and the command line."""

import pytest
import torch

from jitflow import cli
from jitflow.apps.microdoppler.documented import derive_settings as derive_for_microdoppler
from jitflow.apps.text.documented import derive_settings as derive_for_text
from jitflow.errors import ConfigError
from jitflow.evaluation.request import EvaluationRequest
from jitflow.run import fit
from jitflow.run.recipe import flatten
from jitflow.run.settings import changed_settings, complete, is_other
from jitflow.verbs.documented import documented_recipe


def test_the_schedule_of_a_radar_training_ends_at_a_tenth_of_the_rate():
    assert derive_for_microdoppler({"lr": 5e-5}, False) == {"schedule.min_lr": pytest.approx(5e-6)}
    recipe = documented_recipe("microdoppler", {"lr": 5e-5, "max_epochs": 80})
    assert recipe["schedule"]["min_lr"] == pytest.approx(5e-6)
    assert recipe["checkpoint"]["save_last_freq"] == 2
    assert documented_recipe("microdoppler", {"max_epochs": 1})["checkpoint"]["save_last_freq"] == 1


@pytest.mark.parametrize(
    ("given", "resumed", "precision"),
    [
        ({}, False, "bf16-mixed"),
        ({"use_amp": True}, False, "bf16-mixed"),
        ({}, True, None),
        ({"use_amp": False}, False, "32-true"),
        ({"use_amp": False, "precision": "32-true"}, True, "32-true"),
        ({"accelerator": "cpu"}, False, None),
        ({"trainer.accelerator": "cpu"}, False, None),
        ({"precision": "16-mixed"}, False, None),
        ({"trainer.precision": "16-mixed"}, False, None),
    ],
)
def test_half_precision_of_a_text_training_on_a_gpu(given, resumed, precision, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert derive_for_text(given, resumed).get("trainer.precision") == precision


def test_a_text_training_without_a_gpu_has_no_precision_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert derive_for_text({}, False) == {}
    assert documented_recipe("text", {"use_amp": False})["trainer"]["precision"] == "32-true"
    for name in ("precision", "trainer.precision"):
        with pytest.raises(ConfigError, match="use_amp"):
            derive_for_text({"use_amp": False, name: "bf16-mixed"}, False)


def test_weights_and_biases_are_asked_for_by_documented_options(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    given = {"use_wandb": True, "wandb_name": "first"}
    assert derive_for_text({**given, "accelerator": "cpu"}, False) == {
        "logging.wandb": {"project": "jit-diffusion", "name": "first", "entity": None}
    }
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="wandb"):
        derive_for_text(given, False)


@pytest.mark.parametrize(
    ("application", "options"),
    [
        (
            "text",
            {"lr": 5e-6, "epochs": 3, "save_interval": 1, "img_size": 16, "use_amp": False, "predict_clean": False},
        ),
        ("text", {"tokenizer_path": "bytes", "model": "JiT-N/4", "max_grad_norm": 0.5, "weight_decay": 0}),
        ("microdoppler", {"lr": 3e-4, "max_epochs": 50, "devices": 1, "precision": "32-true", "seed": 7}),
    ],
)
def test_the_command_line_means_the_same_recipe_as_python(application, options, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    recipes = []

    def note(recipe, *args, **kwargs):
        recipes.append(recipe)
        raise ConfigError("read")

    monkeypatch.setattr(fit, "fit", note)
    words = [word for name, value in options.items() for word in (f"--{name}", str(value).lower())]
    words = ["JiT-N/4" if word == "jit-n/4" else word for word in words]
    assert cli.main([application, "train", *words, "--model.P_std", "0.9"]) == 1
    expected = documented_recipe(application, options, settings={"model.P_std": 0.9})
    now, then = flatten(complete(recipes[0])), flatten(expected)
    assert now.keys() == then.keys()
    # Devices are text on the command line; a run is found again all the same.
    assert changed_settings(then, now) == changed_settings(now, then) == {}
    assert {name for name in then if is_other(then[name], now[name])} == set()


def test_a_setting_that_an_evaluation_does_not_use_is_named():
    request = EvaluationRequest("a.ckpt", sampling={"steps": 4, "churn": 1.0})
    with pytest.raises(ConfigError, match="--churn"):
        request.settings("guidance", "steps")
    assert request.settings("guidance", "steps", "churn") == {"guidance": None, "steps": 4, "churn": 1.0}


def test_a_number_that_the_command_line_gives_as_text_is_the_same_setting():
    assert not is_other(2, "2") and not is_other("2", 2) and not is_other(1, 1.0)
    assert is_other(2, "3") and is_other(None, "2") and is_other([1], "1")
