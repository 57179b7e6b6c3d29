"""Describe the data of a training by sizes and a fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

_SIZES = ("num_samples", "num_val_samples", "num_classes", "img_size", "channels", "num_documents", "num_corpus_tokens")
# A fixed list of facts, so that the fingerprint stays the same when later versions describe data in more detail.
_FINGERPRINTED = (*_SIZES, "classes", "tokenizer", "token_counts", "num_tokens")
_SHOWN = (*_SIZES, "arrays")


def describe_data(info: Mapping[str, Any], samples: Iterable[tuple[str, int]] = ()) -> dict[str, Any]:
    """Describe a data set by its sizes and a fingerprint.

    Data with a fingerprint of their own (latents) keep it; otherwise it is a hash of their description (classes, sizes,
    token counts) and of the files' names, classes and order. It depends neither on where the data are stored nor on
    the content of image files, which would take hours to read.

    Args:
        info: Description from a data module's ``get_dataset_info``.
        samples: Path and label of each training file, if there are files.

    Returns:
        Sizes, the scale of arrays, names of the classes, and ``fingerprint``, 64 hexadecimal digits or the data's own.
    """
    fingerprint = info.get("fingerprint")
    if fingerprint is None:
        facts = {name: info[name] for name in _FINGERPRINTED if name in info}
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
        for path, label in samples:
            digest.update(f"{'/'.join(PurePath(path).parts[-2:])} {label}\n".encode())
        fingerprint = digest.hexdigest()
    names = list(map(str, info.get("classes") or ()))
    # A single name distinguishes nothing.
    named = {"classes": names} if len(names) > 1 else {}
    return {**{name: info[name] for name in _SHOWN if name in info}, **named, "fingerprint": str(fingerprint)}
