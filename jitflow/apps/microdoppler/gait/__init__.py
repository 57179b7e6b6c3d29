"""Radar simulator of walking people: moving bodies, their echo, its spectrogram, and whole data sets.

The modules, each usable alone: ``joints`` (joint angles over a gait cycle), ``body`` (positions of the body's points),
``activities`` (walk, run, crouch, wave, fall), ``echo`` (received radar signal, IQ), ``channel`` (clutter, noise,
gain), ``picture`` (spectrogram image), ``population`` (random people and walks), ``campaign`` (sessions), ``dataset``
(folders of images) and ``estimate`` (gait read from an image).
"""

from jitflow.apps.microdoppler.gait.activities import ACTIVITIES
from jitflow.apps.microdoppler.gait.activities.walk import body_points
from jitflow.apps.microdoppler.gait.body import Walker
from jitflow.apps.microdoppler.gait.campaign import Campaign, Session, Trial, draw_session, draw_trial
from jitflow.apps.microdoppler.gait.channel import Channel
from jitflow.apps.microdoppler.gait.dataset import write_dataset
from jitflow.apps.microdoppler.gait.dataset_record import dataset_parameters
from jitflow.apps.microdoppler.gait.echo import Radar, Walk, radar_for_carrier, segment_echoes, simulate_signal
from jitflow.apps.microdoppler.gait.estimate import estimate_step_frequency, estimate_torso_velocity
from jitflow.apps.microdoppler.gait.joints import cycle_duration_sec, joint_angles
from jitflow.apps.microdoppler.gait.picture import (
    SpectrogramSettings,
    settings_for_radar,
    simulate_image,
    spectrogram,
    spectrogram_image,
    stft,
)
from jitflow.apps.microdoppler.gait.population import Variation, draw_walk, draw_walkers
from jitflow.apps.microdoppler.gait.truth import torso_velocity_m_s, true_step_frequency_hz, walking_speed_m_s

__all__ = [
    "ACTIVITIES",
    "Campaign",
    "Channel",
    "Radar",
    "Session",
    "SpectrogramSettings",
    "Trial",
    "Variation",
    "Walk",
    "Walker",
    "body_points",
    "cycle_duration_sec",
    "dataset_parameters",
    "draw_session",
    "draw_trial",
    "draw_walk",
    "draw_walkers",
    "estimate_step_frequency",
    "estimate_torso_velocity",
    "joint_angles",
    "radar_for_carrier",
    "segment_echoes",
    "settings_for_radar",
    "simulate_image",
    "simulate_signal",
    "spectrogram",
    "spectrogram_image",
    "stft",
    "torso_velocity_m_s",
    "true_step_frequency_hz",
    "walking_speed_m_s",
    "write_dataset",
]
