"""Settings that stage 2 of micro-Doppler chooses for a network."""

import itertools
import logging

import pytest
from PIL import Image

from jitflow.apps.microdoppler.documented import derive_settings
from jitflow.apps.microdoppler.sections import ExtractionOptions, GenerationOptions, TrainingOptions
from jitflow.apps.microdoppler.stages import PipelineSettings, check_users, plan
from jitflow.errors import ConfigError
from jitflow.verbs.documented import documented_recipe

RATE, NOISE, END = "model.learning_rate", "model.noise_scale", "schedule.min_lr"
DATA = {"model.P_mean": -0.8, "model.cosine_weight": 0.0}


@pytest.mark.parametrize(
    "given, expected",
    [
        ({}, {}),
        ({"model": "LightningDiT-XL/1"}, {RATE: 1e-4, NOISE: 1.0, END: 1e-5}),
        ({"model.model_name": "LightningDiT-B/1"}, {RATE: 2.3e-4, NOISE: 1.0, END: 2.3e-5}),
        ({"model": "LightningDiT-N/4"}, {RATE: 9.7e-4, NOISE: 1.0, END: 9.7e-5}),
        ({"model": "LightningDiT-N/4", "model.prediction": "data"}, {RATE: 9.7e-4, NOISE: 6.0, END: 9.7e-5, **DATA}),
        ({"model": "LightningDiT-XL/2", "model.prediction": "data"}, {RATE: 1e-4, NOISE: 3.0, END: 1e-5, **DATA}),
        (
            {"model": "LightningDiT-XL/1", "model.net_settings": {"hidden_size": 2304}},
            {RATE: 5e-5, NOISE: 1.0, END: 5e-6},
        ),
        ({"model": "LightningDiT-XL/1", "model.net_settings.hidden_size": 576}, {RATE: 2e-4, NOISE: 1.0, END: 2e-5}),
        ({"model": "LightningDiT-XL/1", "model.net_settings": {"hidden_size": "wide"}}, {}),
        ({"lr": 3e-4}, {END: 3e-5}),
    ],
)
def test_learning_rate_and_noise_fit_the_network(given, expected):
    assert derive_settings(given, resumed=False) == pytest.approx(expected)


def test_a_resumed_run_keeps_its_settings():
    assert derive_settings({"model": "LightningDiT-N/4"}, resumed=True) == {}


def test_what_is_given_wins():
    recipe = documented_recipe(
        "microdoppler",
        {"model": "LightningDiT-N/4", "lr": 1e-3, "latent_dir": "latents"},
        settings={"model.noise_scale": 3.0},
    )
    model = recipe["model"]["init_args"]
    assert (model["learning_rate"], model["noise_scale"], recipe["schedule"]["min_lr"]) == (1e-3, 3.0, 1e-4)
    # Chosen for the length of the training.
    assert model["ema_decay1"] is None
    assert model["prediction"] == "velocity"


def test_what_was_chosen_is_said(caplog):
    with caplog.at_level(logging.INFO):
        derive_settings({"model": "LightningDiT-N/4", "lr": 1e-3}, resumed=False)
    assert "noise_scale 1" in caplog.text and "learning_rate" not in caplog.text
    assert "--model.prediction data" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        derive_settings({"model": "LightningDiT-B/1"}, resumed=False)
    assert "learning_rate 0.00023" in caplog.text and "prediction" not in caplog.text


def test_unknown_network():
    with pytest.raises(ConfigError, match="LightningDiT-N/4"):
        derive_settings({"model": "LightningDiT-N4"}, resumed=False)


@pytest.mark.parametrize(
    "training, expected",
    [
        (TrainingOptions(), []),
        (
            TrainingOptions(prediction="data", noise_scale=4.0, ema_decay=0.99),
            ["--model.prediction", "data", "--model.noise_scale", "4.0", "--model.ema_decay1", "0.99"],
        ),
    ],
)
def test_the_pipeline_hands_on_what_is_given(training, expected):
    settings = PipelineSettings(
        *("data", "out", "builtin", 32, 100, None, 1, None, 4, 42, None),
        *(ExtractionOptions(), training, GenerationOptions()),
    )
    commands = dict(plan(settings))
    assert [w for w in commands["training"] if w.startswith("--model.") or w in expected] == expected
    assert "--lr" not in commands["training"]
    # Every user of the model.
    assert "--user_ids" not in commands["generation"]


def test_users_without_pictures_are_named_before_the_stages(tmp_path):
    for split, user in itertools.product(("train", "val"), (2, 5)):
        folder = tmp_path / split / f"ID_{user}"
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / "a.png")

    def settings(users, data=tmp_path):
        return PipelineSettings(
            *(str(data), "out", "builtin", 32, 100, None, 1, users, 4, 42, None),
            *(ExtractionOptions(), TrainingOptions(), GenerationOptions()),
        )

    with pytest.raises(ConfigError, match=r"--generate_user_ids.*no user 1"):
        check_users(settings([2, 1, 5]))
    for users in ([5, 2], None):
        check_users(settings(users))
    # Extracted latents need no pictures.
    check_users(settings([1], tmp_path / "gone"), ["extraction"])
