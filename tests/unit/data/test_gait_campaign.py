"""Sessions of simulated people: channel, draws, files, manifest and splits."""

import csv
import dataclasses
import json
import math

import numpy as np
import pytest

from jitflow.apps.microdoppler.arrays.measure import measure_scale
from jitflow.apps.microdoppler.gait import (
    Campaign,
    Channel,
    Radar,
    SpectrogramSettings,
    Variation,
    Walk,
    Walker,
    dataset_parameters,
    draw_session,
    draw_trial,
    draw_walkers,
    simulate_signal,
    torso_velocity_m_s,
    true_step_frequency_hz,
    write_dataset,
)
from jitflow.apps.microdoppler.leakage import find_leakage
from jitflow.apps.microdoppler.physics import truth_from_simulation
from jitflow.apps.microdoppler.user_images import find_user_images
from jitflow.cli import main
from jitflow.errors import ConfigError

SMALL = SpectrogramSettings(
    duration_sec=0.5, hop_sec=0.02, height_px=32, width_px=32, velocity_min_m_s=-4, velocity_max_m_s=8
)
CAMPAIGN = Campaign(num_sessions=3, activities=("walk", "wave"))
SET = {"num_users": 2, "images_per_user": 12, "seed": 11, "settings": SMALL, "campaign": CAMPAIGN}


def receive(channel, echo, *, carrier_hz=24e9, distance_m=8.0):
    return channel.receive(echo, np.full(len(echo), distance_m), carrier_hz=carrier_hz, prf_hz=2000.0)


def power_db(signal):
    return 10 * math.log10(np.mean(abs(signal) ** 2))


def test_without_a_channel_nothing_is_added_and_distance_follows_the_radar_equation():
    echo = np.exp(1j * np.arange(100))
    np.testing.assert_array_equal(receive(Channel(), echo), echo)
    # Twice the distance: 12 dB less, a sixteenth of the power.
    np.testing.assert_allclose(abs(receive(Channel(), echo, distance_m=16.0)) ** 2, 1 / 16)
    walk = Walk(distance_m=8, aspect_deg=90)
    plain, received = (simulate_signal(Walker(), walk, Radar(), 400, channel=c) for c in (None, Channel()))
    np.testing.assert_allclose(abs(received) / abs(plain), 1, atol=0.1)


def test_noise_floor_and_gain_have_the_powers_asked_for():
    silence = np.zeros(20_000, dtype=complex)
    noise = receive(Channel(noise_floor_db=-25), silence)
    assert power_db(noise) == pytest.approx(-25, abs=0.2)
    assert abs(np.corrcoef(noise.real, noise.imag)[0, 1]) < 0.03
    loud = receive(Channel(noise_floor_db=-25, gain_db=6, drift_db_per_sec=2), silence)
    np.testing.assert_allclose(loud / noise, 10 ** ((6 + 2 * np.arange(20_000) / 2000) / 20))
    # Other recordings and other radars have other noise.
    for other in (
        receive(Channel(noise_floor_db=-25, noise_seed=1), silence),
        receive(Channel(noise_floor_db=-25), silence, carrier_hz=77e9),
    ):
        assert abs(np.vdot(noise, other)) < 0.05 * np.linalg.norm(noise) * np.linalg.norm(other)


def test_clutter_is_at_zero_doppler_and_its_width_grows_with_the_carrier():
    silence = np.zeros(40_000, dtype=complex)
    channel = Channel(clutter_db=-10, clutter_moving_db=-10, clutter_speed_m_s=0.1)
    widths = []
    for carrier_hz in (24e9, 77e9):
        clutter = receive(channel, silence, carrier_hz=carrier_hz)
        assert power_db(clutter) == pytest.approx(-10, abs=0.6)
        still = abs(clutter.mean()) ** 2 / np.mean(abs(clutter) ** 2)
        assert still == pytest.approx(0.9, abs=0.05)
        moving = abs(np.fft.fft(clutter - clutter.mean())) ** 2
        frequency = np.fft.fftfreq(len(clutter), 1 / 2000)
        widths.append(math.sqrt((moving * frequency**2).sum() / moving.sum()))
    # 2 v / wavelength of 0.1 m/s.
    np.testing.assert_allclose(widths, [2 * 0.1 * carrier / 299792458 for carrier in (24e9, 77e9)], rtol=0.1)


def test_a_trial_depends_on_its_place_alone():
    walker = draw_walkers(1, 5)[0]
    session = draw_session(5, 0, 2, walker, CAMPAIGN)
    assert session == draw_session(5, 0, 2, walker, CAMPAIGN)
    assert session != draw_session(5, 0, 1, walker, CAMPAIGN) and session != draw_session(6, 0, 2, walker, CAMPAIGN)

    def trial(turn, activity="walk", campaign=CAMPAIGN):
        return draw_trial((5, 0, 2, turn), session, activity, campaign, Variation(), 2.5)

    assert trial(3) == trial(3) and len({trial(i) for i in range(20)}) == 20
    assert trial(0).walk != trial(0, "wave").walk
    more = dataclasses.replace(CAMPAIGN, activities=("run", "walk"), num_sessions=9)
    assert trial(3, campaign=more) == trial(3)
    signal = trial(0).signal(Radar(), 300)
    assert signal.dtype == np.complex128
    np.testing.assert_array_equal(signal, trial(0).signal(Radar(), 300))
    # Recordings of a session share everything but speed, phase, distance, a few degrees and the drift.
    for i in range(20):
        one = trial(i)
        assert one.walker == session.walker
        assert abs(one.walk.aspect_deg - session.aspect_deg) <= CAMPAIGN.aspect_jitter_deg
        assert abs(one.channel.gain_db - session.channel.gain_db) <= abs(session.drift_db)
        assert dataclasses.replace(one.channel, gain_db=0, noise_seed=0) == dataclasses.replace(
            session.channel, gain_db=0, noise_seed=0
        )


def test_sessions_differ_as_much_as_they_should():
    walker = Walker()
    alike = Campaign(strength=0)
    sessions = [draw_session(0, 0, i, walker, alike) for i in range(5)]
    assert all(session == sessions[0] for session in sessions) and sessions[0].walker == walker
    drawn = [draw_session(0, 0, i, walker, Campaign()) for i in range(200)]
    for values, limit in (
        ([s.channel.gain_db for s in drawn], 3.0),
        ([s.drift_db for s in drawn], 3.0),
        ([s.aspect_deg for s in drawn], 25.0),
        ([s.walker.relative_velocity / 1.5 - 1 for s in drawn], 0.08),
        ([s.walker.arm_swing_gain - 1 for s in drawn], 0.4),
        ([gain for s in drawn for gain in s.walker.part_gain_db], 4.0),
        ([s.channel.noise_floor_db + 26 for s in drawn], 6.0),
    ):
        assert 0.95 * limit < max(map(abs, values)) <= limit
        assert abs(np.mean(values)) < 0.2 * limit


def test_nobody_reaches_the_radar():
    session = draw_session(0, 0, 0, Walker(relative_velocity=1.9), Campaign())
    for i in range(10):
        trial = draw_trial((0, 0, 0, i), session, "run", Campaign(), Variation(distance_m=(1, 2)), 4.0)
        assert trial.walk.distance_m >= trial.motion.speed_m_s * 2 + 1.5


def test_sets_without_sessions_record_nothing_new():
    truth = dataset_parameters(num_users=1, images_per_user=2, seed=3)
    assert "campaign" not in truth["parameters"]
    assert not {"activity", "session", "channel", "walker"} & truth["samples"][0].keys()


def test_truth_of_a_campaign():
    truth = dataset_parameters(**SET)
    assert json.loads(json.dumps(truth)) == truth
    walks = [sample for sample in truth["samples"] if sample["activity"] == "walk"]
    for sample in walks:
        walker = Walker(**{**sample["walker"], "part_gain_db": tuple(sample["walker"]["part_gain_db"])})
        fields = {field.name for field in dataclasses.fields(Walk)}
        walk = Walk(**{name: value for name, value in sample.items() if name in fields and value is not None})
        assert sample["step_frequency_hz"] == true_step_frequency_hz(walker, walk)
        assert sample["torso_velocity_m_s"] == pytest.approx(torso_velocity_m_s(walker, walk))
    assert {s["speed_m_s"] for s in truth["samples"] if s["activity"] == "wave"} == {0.0}
    # The usual gait of a user is read from walks alone.
    read = truth_from_simulation(truth, [1, 2])
    expected = np.median([abs(s["torso_velocity_m_s"]) for s in walks if s["user_id"] == 1 and s["split"] == "train"])
    assert float(read.torso_velocity_m_s[0]) == pytest.approx(expected, abs=0.05)
    # More recordings leave those that were there unchanged.
    more = {s["file"]: s for s in dataset_parameters(**(SET | {"images_per_user": 24}))["samples"]}
    for sample in truth["samples"]:
        assert {**more[sample["file"]], "sample": 0} == {**sample, "sample": 0}


@pytest.mark.parametrize("layout", ["class_folders", "flat"])
def test_whole_sessions_are_held_out(tmp_path, layout):
    truth = write_dataset(tmp_path, **SET, layout=layout)
    with (tmp_path / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [sample["file"] for sample in truth["samples"]]
    assert {row["activity"] for row in rows} == {"walk", "wave"} and {row["carrier_hz"] for row in rows} == {
        "24000000000.0"
    }
    assert {row["session"] for row in rows if row["split"] == "val"} == {"user1_session3", "user2_session3"}
    found = find_user_images(tmp_path)
    assert (len(found.train), len(found.val), found.group) == (16, 8, "session")
    assert find_leakage(found)["num_shared_groups"] == 0
    # The names say the same where the manifest is lost.
    (tmp_path / "manifest.csv").unlink()
    again = find_user_images(tmp_path)
    assert {image.path for image in again.val} == {image.path for image in found.val} and again.group == "session"
    # The same call finishes the set.
    (tmp_path / truth["samples"][0]["file"]).unlink()
    told = []
    write_dataset(tmp_path, **SET, layout=layout, on_image=lambda done, total: told.append((done, total)))
    assert told == [(23, 24), (24, 24)] and (tmp_path / "manifest.csv").is_file()


def test_a_campaign_of_arrays_for_two_radars_through_the_command(tmp_path):
    for carrier in (24, 77):
        words = [
            *("microdoppler", "simulate", "--output_dir", str(tmp_path / str(carrier)), "--num_users", "2"),
            *("--images_per_user", "4", "--files", "npz", "--window_sec", "0.3", "--carrier_ghz", str(carrier)),
            *("--val_fraction", "0", "--campaign.sessions", "2", "--campaign.activities", "[run,fall]"),
            *("--num_processes", "1"),
        ]
        assert main(words) == 0
    tables = {}
    for carrier in (24, 77):
        with (tmp_path / str(carrier) / "manifest.csv").open() as file:
            tables[carrier] = list(csv.DictReader(file))
        found = find_user_images(tmp_path / str(carrier), val_fraction=0.5)
        assert find_leakage(found)["num_shared_groups"] == 0
        scale = measure_scale([image.path for image in found.train], found.arrays)
        assert scale.axes.carrier_hz == carrier * 1e9 and scale.axes.velocity_m_s == pytest.approx((-4, 11), abs=0.1)
        # The noise floor of some dB below the echoes is in the range.
        assert scale.range_db[1] - scale.range_db[0] > 40
    assert "split" not in tables[24][0]
    # The same people do the same before both.
    assert [{**row, "carrier_hz": 0} for row in tables[24]] == [{**row, "carrier_hz": 0} for row in tables[77]]


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Campaign(activities=("walk", "wallk")), "did you mean walk"),
        (lambda: Campaign(activities=()), "activities"),
        (lambda: Campaign(activities=("run", "run")), "activities"),
        (lambda: Campaign(num_sessions=0), "num_sessions"),
        (lambda: Campaign(strength=-1), "strength"),
        (lambda: Campaign(noise_floor_db=(0, -10)), "noise_floor_db"),
        (lambda: Channel(clutter_speed_m_s=0), "clutter_speed_m_s"),
        (lambda: Channel(noise_floor_db=float("nan")), "noise_floor_db"),
        (lambda: dataset_parameters(**(SET | {"images_per_user": 5})), "images_per_user 5"),
        (lambda: dataset_parameters(**(SET | {"campaign": Campaign(num_sessions=1)})), "num_sessions 1"),
        (
            lambda: dataset_parameters(
                num_users=1, images_per_user=9, radar=Radar(), campaign=Campaign(num_sessions=2, activities=("run",))
            ),
            "prf_hz",
        ),
    ],
)
def test_bad_arguments_are_named(make, word):
    with pytest.raises(ConfigError, match=word) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "word"),
    [
        (("--campaign.activities", "[run]"), "campaign.sessions"),
        (("--campaign.sessions", "2", "--snr_db", "[5,9]"), "noise_floor_db"),
    ],
)
def test_options_that_exclude_each_other(tmp_path, capsys, words, word):
    assert main(["microdoppler", "simulate", "--output_dir", str(tmp_path / "set"), *words]) == 1
    assert word in capsys.readouterr().err
    assert not (tmp_path / "set").exists()
