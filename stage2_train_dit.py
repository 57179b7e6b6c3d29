"""Stage 2 of micro-Doppler: train a LightningDiT on users' latents; the same as ``jitflow microdoppler train``."""

import sys

try:
    from jitflow.cli import main
except ImportError as error:
    sys.exit(f"jitflow cannot be imported ({error}); run `make setup` or `pip install -e .` first")

if __name__ == "__main__":
    sys.exit(main(["microdoppler", "train", *sys.argv[1:]]))
