"""Command lines of earlier versions in the words of today: many settings were options, and are dotted now."""

from __future__ import annotations

from jitflow.applications import get_application

_TRAIN = {"train.py": "text", "stage2_train_dit.py": "microdoppler"}


def in_present_words(words: list[str]) -> list[str]:
    """Translate the words of a command; those of other commands than documented trainings stay as they are.

    Args:
        words: A command line, such as ``["train.py", "--net_settings", "{}"]``.
    """
    names = [_TRAIN[word] for word in words[:2] if word in _TRAIN]
    names += [words[1]] if words[:1] == ["jitflow"] and words[2:3] == ["train"] else []
    documented = get_application(names[0]).documented if names else None
    if documented is None:
        return words
    known = {**documented.words, **dict.fromkeys(documented.options, ())}
    present: list[str] = []
    pending = list(words)
    while pending:
        word = pending.pop(0)
        name = word.removeprefix("--")
        if word.startswith("--") and name in known and name not in documented.options:
            value = pending.pop(0)
            targets = ["tokenizer_path"] if name == "tokenizer" else documented.targets(name)
            present += [part for target in targets for part in (f"--{target}", value)]
        else:
            present.append(word)
    return present
