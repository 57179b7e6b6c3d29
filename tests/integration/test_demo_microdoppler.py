"""The micro-Doppler demo from end to end, with so few steps that nothing is learned."""

import json
import logging

import pytest

from jitflow.errors import ConfigError
from jitflow.verbs.demo_microdoppler import SETTINGS, run

PROMISED = {
    "identity_accuracy",
    "identity_accuracy_real",
    "tstr_accuracy",
    "trtr_accuracy",
    "step_frequency_within_5_percent",
    "step_frequency_within_5_percent_real",
    "codec_psnr_db",
}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    return out, run(out, quick=True)


def test_the_metrics_carry_the_promised_names(demo):
    out, metrics = demo
    assert json.loads((out / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
    assert metrics.keys() >= PROMISED
    assert all(0 <= metrics[name] <= 1 for name in PROMISED - {"codec_psnr_db"})
    assert metrics["codec_psnr_db"] > 20
    # Real walks are told apart even by a classifier of few pictures.
    assert metrics["identity_accuracy_real"] > 0.5 and metrics["step_frequency_within_5_percent_real"] > 0.5
    assert metrics["num_generated"] == 10


def test_it_leaves_pictures_to_look_at(demo):
    out, _ = demo
    for name in ("generated_images/micro_doppler_grid.png", "evaluation/real_and_generated.png"):
        assert (out / name).stat().st_size > 1000
    assert (out / "generated_images" / "micro_doppler_user05_002.png").is_file()


def test_a_finished_demo_only_reports(demo, capsys):
    out, metrics = demo
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    assert run(out, quick=True) == json.loads(json.dumps(metrics))
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()} == before
    assert "names the right user" in " ".join(capsys.readouterr().out.split())


def test_an_interrupted_demo_takes_what_is_there(demo, caplog):
    out, metrics = demo
    (out / "metrics.json").unlink()
    with caplog.at_level(logging.INFO):
        again = run(out, quick=True)
    assert "already extracted" in caplog.text and "trained already" in caplog.text
    assert {name: again[name] for name in PROMISED} == {name: metrics[name] for name in PROMISED}


def test_other_settings_need_a_restart(demo):
    out, _ = demo
    with pytest.raises(ConfigError, match="--restart"):
        run(out, seed=1, quick=True)


def test_the_real_demo_draws_enough_and_walks_apart():
    assert SETTINGS["num_users"] * SETTINGS["generated_per_user"] >= 200
    assert SETTINGS["min_cadence_gap"] >= 0.1
