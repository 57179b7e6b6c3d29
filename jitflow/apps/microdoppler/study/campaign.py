"""Simulated data of the study: people to tell apart in several sessions, and others whom only the generator sees."""

from __future__ import annotations

from pathlib import Path

from jitflow.apps.microdoppler.gait import write_dataset
from jitflow.apps.microdoppler.gait.campaign import Campaign
from jitflow.apps.microdoppler.study.settings import PeopleOptions
from jitflow.core.seeding import mix_seeds
from jitflow.io.progress import meter

PEOPLE, OTHERS = "people", "others"
_TEST_SHARE = 1 / 3
# Separates the two sets of people.
_OTHERS = 1


def simulate_campaigns(folder: Path, people: PeopleOptions, seed: int, workers: int) -> tuple[Path, Path | None]:
    """Simulate the spectrograms of the study as arrays in dB, or finish an interrupted simulation.

    Args:
        folder: Folder of both data sets.
        people: Numbers of people, sessions and spectrograms.
        seed: Seed of everything.
        workers: Processes that share the work.

    Returns:
        Folder of the people to tell apart, whose last sessions are held out, and that of the others; None without any.
    """
    each = people.sessions * people.per_session
    sets = [(PEOPLE, people.users, _TEST_SHARE, seed)]
    if people.others:
        sets.append((OTHERS, people.others, 0.0, mix_seeds(seed, _OTHERS)))
    with meter("simulating", sum(num * each for _, num, _, _ in sets), unit="spectrograms") as progress:
        before = 0
        for name, num, share, own_seed in sets:

            def report(done: int, total: int, before: int = before) -> None:
                progress.update(before + done)

            write_dataset(
                folder / name,
                num_users=num,
                images_per_user=each,
                val_fraction=share,
                seed=own_seed,
                file_format="npz",
                campaign=Campaign(num_sessions=people.sessions),
                num_processes=workers,
                on_image=report,
            )
            before += num * each
    return folder / PEOPLE, folder / OTHERS if people.others else None
