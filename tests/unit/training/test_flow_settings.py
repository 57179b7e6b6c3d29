"""Settings of flows: each is said once, in a dataclass, and is an option, an argument and a hyper-parameter."""

import pytest
from jsonargparse import ArgumentParser

from jitflow.apps.images.module import JiTLightningModule
from jitflow.apps.microdoppler.module import LatentFlowSettings, UserConditionedDiT
from jitflow.apps.text.flow_settings import TextFlowSettings
from jitflow.apps.text.module import TextLightningModule
from jitflow.errors import ConfigError
from jitflow.run.arguments import arguments_of
from jitflow.training.flow_settings import FlowSettings

NETS = {"depth": 1, "hidden_size": 32, "num_heads": 2}
MODULES = {
    JiTLightningModule: {
        "model_name": "JiT",
        "img_size": 8,
        "net_settings": {**NETS, "patch_size": 4, "in_context_start": 0},
    },
    UserConditionedDiT: {"model_name": "LightningDiT", "latent_shape": (4, 4, 4), "net_settings": NETS},
    TextLightningModule: {"model_name": "JiT-B/4", "img_size": 16, "net_settings": {"depth": 1}},
}
every_module = pytest.mark.parametrize("cls", MODULES)


@every_module
def test_every_setting_is_an_option_with_help_and_its_default(cls):
    parser = ArgumentParser()
    parser.add_class_arguments(cls, "model")
    options = {action.dest.removeprefix("model."): action for action in parser._actions if "." in action.dest}
    takes = arguments_of(cls)
    assert set(options) == set(takes.names)
    assert not takes.takes_all
    for name, default in cls.settings_class().arguments().items():
        assert options[name].help, name
        if not (cls is JiTLightningModule and name in ("cfg_interval",)):
            assert options[name].default == default == takes.defaults[name], name


@every_module
def test_every_setting_is_an_attribute_and_a_hyperparameter(cls):
    module = cls(**MODULES[cls])
    for name, default in cls.settings_class().arguments().items():
        # Of the settings of terms the module holds the terms.
        value = default if name == "loss_terms" else getattr(module, name)
        assert value == module.hparams[name] == default, name
    other = cls(**MODULES[cls], churn=0.5, P_mean=-1.0)
    assert (other.churn, other.P_mean, other.hparams["churn"], other.hparams["P_mean"]) == (0.5, -1.0, 0.5, -1.0)
    # A checkpoint's hyper-parameters build the same module.
    assert dict(cls(**other.hparams).hparams) == dict(other.hparams)


@every_module
def test_documented_defaults_of_images_are_those_of_the_settings(cls):
    assert arguments_of(cls).defaults["learning_rate"] == 1e-4
    with pytest.raises(TypeError, match="bogus"):
        cls(**MODULES[cls], bogus=1)


@pytest.mark.parametrize("cls", [FlowSettings, LatentFlowSettings, TextFlowSettings])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", 0.0),
        ("weight_decay", -1.0),
        ("ema_decay1", 1.5),
        ("ema_decay2", None),
        ("P_std", -1.0),
        ("noise_scale", 0.0),
        ("t_eps", 1.0),
        ("self_conditioning_prob", 2.0),
        ("velocity_weight", float("nan")),
        ("time_kind", "normal"),
    ],
)
def test_a_value_out_of_range_is_named(cls, name, value):
    with pytest.raises(ConfigError, match={"time_kind": "time", "P_std": "standard deviation"}.get(name, name)):
        cls(**{name: value})


@pytest.mark.parametrize("name", ["pad_weight", "infill_prob", "prompt_prob", "cross_entropy_weight"])
def test_a_setting_of_text_out_of_range_is_named(name):
    with pytest.raises(ConfigError, match=name):
        TextFlowSettings(**{name: -0.5})


def test_text_predicts_what_it_was_told_to():
    assert TextFlowSettings().prediction == "data"
    assert TextFlowSettings(predict_clean=False).prediction == "velocity"
    with pytest.raises(TypeError, match="prediction"):
        TextFlowSettings(prediction="noise")


def test_an_interval_is_a_pair_also_where_a_file_holds_a_list():
    assert FlowSettings(cfg_interval=[0.1, 1.0]).cfg_interval == (0.1, 1.0)
