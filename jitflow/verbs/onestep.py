"""The verb ``onestep``: post-train a checkpoint to a generator of one or a few network calls."""

from __future__ import annotations

import logging

from jitflow.posttraining.options import JudgeOptions, MethodOptions, RunOptions
from jitflow.verbs.commandline import run_command

log = logging.getLogger(__name__)


def onestep(args: list[str]) -> None:
    """Post-train a checkpoint, ``jitflow onestep``."""
    run_command("onestep", _onestep, args)


def _onestep(
    checkpoint: str,
    method: MethodOptions = MethodOptions(),  # noqa: B008 (frozen)
    judging: JudgeOptions = JudgeOptions(),  # noqa: B008 (frozen)
    run: RunOptions = RunOptions(),  # noqa: B008 (frozen)
) -> None:
    """Post-train a model of images, so that one network call makes an image; the result is an ordinary checkpoint.

    The network is trained on the Frechet distance between its images and real ones, under frozen feature extractors.
    These scores then say little, and every report marks them: judge the model by other extractors, recall and copies
    (see docs/one_step.md). Options of a section can be given without it: --extractors digits, --updates 500. The same
    command again resumes an interrupted training.

    Args:
        checkpoint: File of a trained model, or a run's folder for its best checkpoint, else its last.
        method: What is optimised, and how.
        judging: The held-out judge, which stops the training when its score gets worse.
        run: Where and how it runs.
    """
    from jitflow.checkpoint.find import find_model
    from jitflow.io.files import user_path
    from jitflow.run.fit import fit, prepare
    from jitflow.run.onestep import one_step_recipe
    from jitflow.run.start import nothing_left_of_a_refused_run
    from jitflow.verbs.train_options import describe_dry_run

    recipe = one_step_recipe(find_model(checkpoint), method, judging, run)
    folder = user_path(run.run_dir)
    if run.dry_run:
        with nothing_left_of_a_refused_run(folder):
            training = prepare(recipe, folder, restart=run.restart)
            if training is not None:
                describe_dry_run(training)
        return
    done = fit(recipe, folder, restart=run.restart)
    best = done.best or done.checkpoint
    log.info("done: %s; draw samples with `jitflow sample %s`", best, best)
