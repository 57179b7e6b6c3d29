"""Describe the data of a training: sizes, and a fingerprint that names them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

_SHOWN = ("num_samples", "num_val_samples", "num_classes", "img_size", "channels", "num_documents", "num_corpus_tokens")
# What data are known by; not all that they say, so that a later version which says more finds the same data.
_NAMED_BY = (*_SHOWN, "classes", "tokenizer", "token_counts", "num_tokens")


def describe_data(info: Mapping[str, Any], samples: Iterable[tuple[str, int]] = ()) -> dict[str, Any]:
    """Describe data in few words, with a fingerprint.

    The fingerprint is that of the data themselves where they have one (latents); else it is made of what they say
    of themselves (classes, sizes, counts of tokens) and of the files' names, classes and order. It does not depend on
    where the data lie, and not on the content of image files, which would take hours to read.

    Args:
        info: What a data module's ``get_dataset_info`` returned.
        samples: Path and label of each training file, if there are files.

    Returns:
        Sizes, and ``fingerprint``, 64 hexadecimal digits or the data's own.
    """
    fingerprint = info.get("fingerprint")
    if fingerprint is None:
        named = {name: info[name] for name in _NAMED_BY if name in info}
        digest = hashlib.sha256(json.dumps(named, sort_keys=True, default=str).encode())
        for path, label in samples:
            digest.update(f"{'/'.join(PurePath(path).parts[-2:])} {label}\n".encode())
        fingerprint = digest.hexdigest()
    return {**{name: info[name] for name in _SHOWN if name in info}, "fingerprint": str(fingerprint)}
