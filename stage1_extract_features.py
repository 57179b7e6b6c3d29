"""Stage 1 of micro-Doppler: turn pictures of users into latents; the same as ``jitflow microdoppler extract``."""

import sys

try:
    from jitflow.cli import main
except ImportError as error:
    sys.exit(f"jitflow cannot be imported ({error}); run `make setup` or `pip install -e .` first")

if __name__ == "__main__":
    sys.exit(main(["microdoppler", "extract", *sys.argv[1:]]))
