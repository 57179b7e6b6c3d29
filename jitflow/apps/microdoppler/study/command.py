"""The command ``jitflow microdoppler augment-study``: from recordings to the curve, resumed by the same command."""

from __future__ import annotations

from jitflow.apps.microdoppler.study.settings import NetworkOptions, PeopleOptions, StudyOptions, TrainingsOptions


def augment_study(
    run_dir: str,
    /,
    study: StudyOptions = StudyOptions(),  # noqa: B008 (frozen)
    people: PeopleOptions = PeopleOptions(),  # noqa: B008 (frozen)
    network: NetworkOptions = NetworkOptions(),  # noqa: B008 (frozen)
    trainings: TrainingsOptions = TrainingsOptions(),  # noqa: B008 (frozen)
) -> None:
    """Measure whether generated data help a classifier of users: curves, intervals, one sentence.

    Run it again to resume an interrupted study, or to report a finished one; --full adds to it. Options of a section
    can be given without it: --data_dir campaign, --full.

    Args:
        run_dir: Folder of the study: curve.png, curve.pdf, study.html, study.json, and everything that led to them.
        study: Data and extent.
        people: Simulated people, where no data are given.
        network: Generators.
        trainings: Classifiers.
    """
    from jitflow.apps.microdoppler.study.runner import run_study

    run_study(run_dir, study, people, network, trainings)
