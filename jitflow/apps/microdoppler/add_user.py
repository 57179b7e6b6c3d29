"""The command that adds a user to a trained model, with a report of what it learned and of copies."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from jitflow.apps.microdoppler.module import UserConditionedDiT
from jitflow.apps.microdoppler.new_user import (
    TABLE,
    adopt_combinations,
    build_module,
    encode_files,
    find_new_files,
    learn_row,
    new_labels,
    with_new_user,
)
from jitflow.apps.microdoppler.sampling import present_users
from jitflow.apps.microdoppler.sections import NewUserOptions
from jitflow.checkpoint.find import find_model
from jitflow.checkpoint.formats import read_state, write_state
from jitflow.core.times import time_grid
from jitflow.errors import ConfigError, check_count
from jitflow.evaluation.memorisation import copies_by_ratio, draw_pairs
from jitflow.evaluation.nearest import nearest_of, pixel_vectors
from jitflow.io.files import user_path, writable_folder, write_json
from jitflow.io.progress import meter
from jitflow.io.results_folder import free_folder
from jitflow.model import Model, load
from jitflow.training.samples import Samples

log = logging.getLogger(__name__)
MODEL_NAME, REPORT_NAME, PAIRS_NAME, SAMPLES = "model.safetensors", "new_user.json", "nearest_pairs.png", "samples"
_APPLICATION = UserConditionedDiT.application


def add_new_user(options: NewUserOptions) -> Path:
    """Add a user to a model, draw some spectrograms of the user, and report how many are copies.

    Args:
        options: Model, spectrograms and settings.

    Returns:
        The folder with ``model.safetensors``, ``new_user.json``, ``nearest_pairs.png`` and ``samples/``.

    Raises:
        ConfigError: If a setting is out of range, the number is taken, or the codec's file is missing.
        MissingFileError: If the model or the folder does not exist.
        CheckpointError: If it is no model of users.
        DataError: If the spectrograms cannot be used.
    """
    for name in ("num_steps", "num_samples"):
        check_count(name, getattr(options, name), least=2)
    if options.sampling_steps is not None:
        time_grid(options.sampling_steps)
    if not options.learning_rate > 0:
        raise ConfigError(f"learning_rate must be positive; got {options.learning_rate}")
    source, folder = find_model(options.model), user_path(options.data_dir)
    # Raises for a model that is not of users, or whose codec is missing.
    model = load(source, application=_APPLICATION, device=options.device, vavae_path=options.vavae_path)
    module = model.module
    assert isinstance(module, UserConditionedDiT)
    codec, files = module.latents.image_codec(), find_new_files(folder, module)
    number = max(module.user_ids) + 1 if options.user_id is None else options.user_id
    state = with_new_user(read_state(source).without_terms(), number)
    grown = build_module(state)
    labels = new_labels(grown, files)
    adopt_combinations(grown, labels)
    latents = encode_files(module, files, options.seed)
    out = writable_folder(free_folder(options.out, lambda taken: (taken / REPORT_NAME).exists()))

    grown.attach_codec(codec)
    larger = Model(grown, source=out / MODEL_NAME).to(module.device)
    settings: dict[str, Any] = {
        "num_steps": options.num_steps,
        "learning_rate": options.learning_rate,
        "seed": options.seed,
    }
    with meter("learning the user", options.num_steps, unit="steps") as progress:
        before, after = learn_row(grown, latents, labels, on_progress=progress.update_share, **settings)
    learned = {**state.weights, TABLE: grown.get_parameter(TABLE).detach().cpu()}
    state = replace(state, weights=learned, ema1=learned, extra={**state.extra, **grown.conditions_entry()})
    write_state(state, out / MODEL_NAME)

    with meter("sampling", options.num_samples, unit="pictures") as progress:
        asked: dict[str, Any] = {
            "users": [number],
            "num": options.num_samples,
            "seeds": options.seed,
            "steps": options.sampling_steps,
        }
        drawn = larger.sample(**asked, ema=0, on_progress=progress.update_share)
    drawn.save(out / SAMPLES)
    report: dict[str, Any] = {
        **{"model": str(source), "user_id": number, "files": [str(file.path) for file in files]},
        **{**settings, "loss_before": before, "loss_after": after},
        **report_copies(larger, drawn, latents, out / PAIRS_NAME),
    }
    write_json(out / REPORT_NAME, report)
    log.info(
        "user %d learned from %d spectrograms (loss %.4g, before %.4g); %d of %d drawn are copies of them, see %s; "
        "draw more: jitflow sample %s --users %d",
        *(number, len(files), after, before, report["num_copies"], len(drawn), out / PAIRS_NAME),
        *(out / MODEL_NAME, number),
    )
    return out


def report_copies(model: Model, drawn: Samples, latents: Tensor, path: Path) -> dict[str, Any]:
    """Compare drawn spectrograms of a new user with those that it was learned from, and draw the nearest pairs.

    Args:
        model: The model with the new user.
        drawn: Samples of the user.
        latents: Latents of the given spectrograms, shape ``(N, Z, h, w)``, which are compared as they decode.
        path: The PNG to write.

    Returns:
        ``num_copies``, the rule, and medians of the distance from drawn and from given spectrograms to the nearest
            (other) given one, grey levels.
    """
    module = model.module
    assert isinstance(module, UserConditionedDiT)
    asked = model.ask(users=[module.user_ids[-1]], num=len(latents))
    given = present_users(module, module.codec.encode(latents.to(module.device)), asked, [0] * len(latents)).pixels
    vectors, own = pixel_vectors(drawn.pixels), pixel_vectors(given)
    near = nearest_of(vectors, own)
    copies = copies_by_ratio(near)
    chosen = copies.nearest()
    captions = [f"{float(near.distances[i, 0]):.1f} grey levels" for i in chosen]
    draw_pairs(path, drawn.pixels[chosen], given[near.indices[chosen, 0]], captions)
    return {
        "num_copies": int(copies.is_copy.sum()),
        "copies_rule": copies.rule,
        "nearest_given_median": float(near.distances[:, 0].median()),
        # The nearest to a given one is itself.
        "nearest_given_median_of_given": float(nearest_of(own, own).distances[:, 1].median()),
    }
