"""Settings of a simulated data set from the options of the command line."""

from __future__ import annotations

import dataclasses
from typing import Any

from jitflow.apps.microdoppler.gait.campaign import Campaign
from jitflow.apps.microdoppler.gait.dataset_record import radar_for_band, settings_for_band
from jitflow.apps.microdoppler.gait.population import Variation
from jitflow.apps.microdoppler.sections import CampaignOptions, RadarOptions
from jitflow.errors import ConfigError


def simulation_settings(radar: RadarOptions, campaign: CampaignOptions) -> dict[str, Any]:
    """Return radar, spectrogram, variation and campaign of a data set, as arguments of ``write_dataset``.

    Args:
        radar: Radar, walking people and spectrogram.
        campaign: Sessions and activities.

    Raises:
        ConfigError: If options exclude each other.
    """
    plan = _campaign(radar, campaign)
    activities = plan.activities if plan else ("walk",)
    simulated = radar_for_band(radar.carrier_ghz * 1e9, radar.direction, activities)
    settings = dataclasses.replace(
        settings_for_band(simulated, radar.direction, activities),
        duration_sec=radar.window_sec,
        height_px=radar.img_size,
        width_px=radar.img_size,
        colour_map=radar.colours,
    )
    variation = Variation(snr_db=radar.snr_db, direction=radar.direction)
    return {"radar": simulated, "settings": settings, "variation": variation, "campaign": plan}


def _campaign(radar: RadarOptions, options: CampaignOptions) -> Campaign | None:
    if not options.sessions:
        if options != CampaignOptions():
            raise ConfigError("--campaign.activities and the other options of a campaign need --campaign.sessions 4")
        return None
    if radar.snr_db != RadarOptions().snr_db:
        raise ConfigError("--radar.snr_db is for recordings without sessions; give --campaign.noise_floor_db instead")
    return Campaign(
        num_sessions=options.sessions,
        activities=tuple(options.activities),
        strength=options.strength,
        noise_floor_db=options.noise_floor_db,
        clutter_db=options.clutter_db,
    )
