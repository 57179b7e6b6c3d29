"""The commands of raw radar recordings: convert them to spectrograms, and simulate some."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence

from jitflow.apps.microdoppler.gait import Variation
from jitflow.apps.microdoppler.recordings.convert import PREVIEWS, WindowSettings, convert_recordings
from jitflow.apps.microdoppler.recordings.formats import FORMATS
from jitflow.apps.microdoppler.recordings.radar import RADAR_NAME, RecordingRadar, list_presets, read_radar
from jitflow.apps.microdoppler.recordings.simulate import RecordingPlan, write_recordings
from jitflow.apps.microdoppler.recordings.sources import Source, find_radar, find_recordings
from jitflow.apps.microdoppler.sections import (
    CampaignOptions,
    DatasetOptions,
    RadarOptions,
    RecordingOptions,
    WindowOptions,
)
from jitflow.errors import ConfigError
from jitflow.io.cores import available_cores
from jitflow.io.progress import meter

log = logging.getLogger(__name__)
# Share of a frame that a pause may have without a warning.
_MOST_FILLED = 0.1


def convert(raw: Sequence[str], radar: str | None, windows: WindowOptions) -> None:
    """Convert recordings to a data set of spectrograms, as ``jitflow microdoppler spectrogram`` does.

    Args:
        raw: Recordings, folders or manifests.
        radar: A preset or a file; None takes the ``radar.yaml`` of the recordings.
        windows: Windows, their folder, and processes.
    """
    out = windows.output_dir
    settings = WindowSettings(windows.duration_sec, windows.overlap)
    sources = find_recordings(raw)
    stated = _find_radar(raw, radar)
    if stated.num_filled > _MOST_FILLED * (stated.frame_pulses or 1) / stated.transmitters:
        log.warning(
            "the pauses between frames are %d pulses long, those of a frame %d: what fills them in is a guess",
            *(stated.num_filled, (stated.frame_pulses or 0) // stated.transmitters),
        )
    log.info("%d recordings of %d users: %s", len(sources), len({s.user for s in sources}), _per_user(sources))
    workers = windows.num_processes or available_cores()
    with meter("spectrograms", len(sources), unit="recordings") as progress:
        rows = convert_recordings(
            sources,
            stated,
            out,
            settings,
            num_processes=workers,
            on_recording=lambda done, total: progress.update(done),
        )
    log.info("%d spectrograms in %s; look at %s/%s", len(rows), out, out, PREVIEWS)
    split = "" if "split" in rows[0] else " --val_fraction 0.2"
    log.info("next: jitflow microdoppler extract --data_dir %s --output_path LATENTS%s", shlex.quote(out), split)


def simulate_recordings(
    output_dir: str,
    num_users: int,
    seed: int,
    recordings: RecordingOptions,
    radar: RadarOptions,
    dataset: DatasetOptions,
    campaign: CampaignOptions,
) -> None:
    """Simulate raw recordings, as ``jitflow microdoppler simulate --recordings.radar RADAR`` does.

    Args:
        output_dir: Folder of the recordings.
        num_users: Number of people.
        seed: Seed of everything.
        recordings: Radar and number of the recordings.
        radar: Noise and direction of the walks; its other values are of spectrograms.
        dataset: Differences between people, and processes.
        campaign: Sessions, which recordings do not have.

    Raises:
        ConfigError: If sessions are asked for.
    """
    assert recordings.radar is not None
    if campaign != CampaignOptions():
        raise ConfigError("raw recordings (--recordings.radar) have no sessions; leave out --campaign options")
    variation = Variation(snr_db=radar.snr_db, direction=radar.direction)
    length, gap = recordings.length_sec, dataset.min_cadence_gap
    plan = RecordingPlan(num_users, recordings.per_user, length, seed, variation, gap)
    workers = dataset.num_processes or available_cores()
    with meter("simulating", num_users * recordings.per_user, unit="recordings") as progress:
        write_recordings(
            output_dir,
            read_radar(recordings.radar),
            plan,
            num_processes=workers,
            on_recording=lambda done, total: progress.update(done),
        )
    log.info("%d recordings of %d people in %s", num_users * recordings.per_user, num_users, output_dir)
    log.info("next: jitflow microdoppler spectrogram %s --output_dir SPECTROGRAMS", shlex.quote(output_dir))


def _find_radar(raw: Sequence[str], radar: str | None) -> RecordingRadar:
    if radar is not None:
        return read_radar(radar)
    found = find_radar(raw)
    if found is None:
        raise ConfigError(
            f"the radar of the recordings ({', '.join(FORMATS)}) is unknown: pass --radar with one of "
            f"{', '.join(list_presets())}, or a YAML file, or put {RADAR_NAME} beside them"
        )
    log.info("the radar is that of %s", found)
    return read_radar(found)


def _per_user(sources: Sequence[Source]) -> str:
    """Say how many recordings each user has."""
    users = sorted({source.user for source in sources})
    counts = [f"{user} ({sum(source.user == user for source in sources)})" for user in users[:20]]
    return ", ".join(counts) + (" ..." if len(users) > 20 else "")
