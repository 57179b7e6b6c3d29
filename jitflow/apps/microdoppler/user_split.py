"""Split the files of users into training and validation files, whole sessions and recordings at a time."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from jitflow.apps.microdoppler.arrays.description import DESCRIPTION_NAME
from jitflow.apps.microdoppler.user_files import UserFile, listed
from jitflow.core.seeding import mix_seeds
from jitflow.data.group_split import merge_linked, split_groups
from jitflow.errors import DataError

log = logging.getLogger(__name__)

Users = dict[int, list[UserFile]]


def split_users(users: Mapping[int, Sequence[UserFile]], fraction: float, seed: int, group: str) -> tuple[Users, Users]:
    """Hold out a share of each user's files.

    Files of one session, and overlapping windows of one recording, stay together. Without any such knowledge the files
    of each user are drawn one by one.

    Args:
        users: Files of each user.
        fraction: Share to hold out, in (0, 1); at least one group of each user on either side.
        seed: Seed of the split.
        group: What the sessions are called, such as ``session``; empty if they are unknown or shall not count.

    Returns:
        Training and validation files of each user, in order.

    Raises:
        DataError: If a user has a single file, or files of a single group.
    """
    single = sorted(user_id for user_id, files in users.items() if len(files) < 2)
    if single:
        raise DataError(
            f"user {listed(map(str, single))} has a single image, and needs one to train and one to validate on; add "
            "some, or remove the user"
        )
    named = [(user_id, file) for user_id in sorted(users) for file in users[user_id]]
    links = list(linked_files(named, by_session=bool(group)))
    if not links and not group:
        return _split_files(users, fraction, seed)
    labels = np.unique([user_id for user_id, _ in named], return_inverse=True)[1]
    groups = merge_linked(len(named), links)
    held_out = split_groups(labels, groups, fraction, seed)
    parts: tuple[Users, Users] = (defaultdict(list), defaultdict(list))
    for (user_id, file), held in zip(named, held_out.tolist(), strict=True):
        parts[held][user_id].append(file)
    lacking = sorted(user_id for user_id in users if user_id not in parts[0] or user_id not in parts[1])
    what = group or "recording"
    if lacking:
        raise DataError(
            f"user {listed(map(str, lacking))} has no {what} to hold out that leaves another one to train on (a {what} "
            f"that users share is one {what}); add recordings, make train/ and val/ yourself"
            + (f", or state `group: none` in {DESCRIPTION_NAME}" if group else "")
        )
    log.info("held out %.1f %% of the files, no %s on both sides", 100 * held_out.mean(), what)
    return dict(parts[0]), dict(parts[1])


def linked_files(named: Sequence[tuple[int, UserFile]], *, by_session: bool) -> Iterator[list[int]]:
    """List groups of files that training and validation may not share, as indices.

    Args:
        named: User and file of each.
        by_session: Whether files of one session belong together; overlapping windows of a recording always do, and all
            of a recording whose windows are unknown.
    """
    sessions: dict[str, list[int]] = defaultdict(list)
    recordings: dict[tuple[int, str], list[int]] = defaultdict(list)
    for i, (user_id, file) in enumerate(named):
        if by_session and file.session:
            sessions[file.session].append(i)
        if file.recording:
            recordings[user_id, file.recording].append(i)
    yield from sessions.values()
    for indices in recordings.values():
        windows = [named[i][1].window_sec for i in indices]
        if any(window is None for window in windows):
            yield indices
            continue
        ordered = sorted(zip(windows, indices, strict=True), key=lambda pair: (pair[0] or (0.0, 0.0), pair[1]))
        run, end = [ordered[0][1]], (ordered[0][0] or (0.0, 0.0))[1]
        for window, i in ordered[1:]:
            assert window is not None
            if window[0] < end:
                run.append(i)
            else:
                yield run
                run = [i]
            end = max(end, window[1])
        yield run


def _split_files(users: Mapping[int, Sequence[UserFile]], fraction: float, seed: int) -> tuple[Users, Users]:
    """Draw the share of each user file by file; it does not depend on the other users."""
    train, val = {}, {}
    for user_id, files in users.items():
        num_val = min(max(1, round(len(files) * fraction)), len(files) - 1)
        order = np.random.default_rng(mix_seeds(seed, user_id)).permutation(len(files))
        held_out = set(order[:num_val].tolist())
        train[user_id] = [file for i, file in enumerate(files) if i not in held_out]
        val[user_id] = [file for i, file in enumerate(files) if i in held_out]
    return train, val
