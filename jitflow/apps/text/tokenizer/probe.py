"""Try a tokenizer's definition in a process of its own, since one from a file can loop, fill the memory or panic."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from jitflow.errors import ConfigError
from jitflow.io.json_text import parse_json

# Each text is changed by some published tokenizer: case, runs of blanks, accents, rare scripts.
SAMPLE_TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "Upper and lower: iPhone, NASA, McDonald's, don't.",
    "  two leading blanks,  two between, one trailing ",
    "def f(x):\n\treturn {'a': [1, 2.5e-3]}  # tab\n\n\n",
    "naïve café, Ångström, e\u0301 decomposed, ﬁ ligature",
    "русский текст, ελληνικά, עברית, العربية",
    "漢字とかな、한국어",
    "😀👩‍👩‍👧 emoji, \u200bzero width, \u00a0no break",
)
# An expression such as (a+)+b takes exponential time for it.
_LONG_WORD = "a" * 2000 + "!"
_PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder", "model")
_BASE_SECONDS, _CHARACTERS_PER_SECOND = 2, 2_000_000
# Of time on the clock, on a machine that has much else to do.
_MOST_TIMES_LONGER = 20
_BASE_BYTES, _BYTES_PER_CHARACTER = 1 << 30, 64
_PROGRAM = """
import json, sys
try:
    import resource
except ImportError:
    pass
else:
    resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[1]),) * 2)
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]),) * 2)
sys.path.append(sys.argv[3])
import tokenizers
given = json.load(sys.stdin)
engine = tokenizers.Tokenizer.from_str(given["definition"])
engine.no_truncation()
engine.no_padding()
engine.get_vocab(with_added_tokens=True)
for text in given["texts"]:
    engine.decode(engine.encode(text, add_special_tokens=False).ids)
"""


@functools.lru_cache(maxsize=4)
def check_definition(definition: str, library: ModuleType) -> None:
    """Check that the library can read a tokenizer's definition and run it, on sample texts, in reasonable time.

    Args:
        definition: Content of a ``tokenizer.json``.
        library: The ``tokenizers`` library.

    Raises:
        ConfigError: If it is no JSON, or the library refuses it, fails on a text, or needs too much time or memory.
    """
    try:
        content = parse_json(definition)
    except ValueError as error:
        raise ConfigError(f"this is no tokenizer: it is not valid JSON ({error})") from None
    if _is_plain(content):
        return
    seconds = _BASE_SECONDS + len(definition) // _CHARACTERS_PER_SECOND
    num_bytes = _BASE_BYTES + _BYTES_PER_CHARACTER * len(definition)
    place = Path(str(library.__file__)).parents[1]
    command = [sys.executable, "-I", "-c", _PROGRAM, str(seconds), str(num_bytes), str(place)]
    given = json.dumps({"definition": definition, "texts": [*SAMPLE_TEXTS, _LONG_WORD]})
    try:
        ended = subprocess.run(
            command, input=given.encode(), capture_output=True, timeout=_MOST_TIMES_LONGER * seconds, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"this tokenizer could not be tried in a process of its own ({error})") from None
    if ended.returncode:
        lines = ended.stderr.decode("utf-8", "replace").strip().splitlines()
        reason = lines[-1] if ended.returncode > 0 and lines else f"it took over {seconds} s or too much memory"
        raise ConfigError(f"this is no tokenizer that the tokenizers library can run ({reason:.200})")


def _is_plain(content: Any) -> bool:
    """Whether a definition is byte-level BPE, which has neither expressions nor tables of a file."""
    parts = {name: content.get(name) for name in _PARTS} if isinstance(content, dict) else {}
    kinds = {name: part.get("type") if isinstance(part, dict) else part for name, part in parts.items()}
    return kinds.pop("model", None) == "BPE" and all(kind in (None, "ByteLevel") for kind in kinds.values())
