"""Train a model of text as colour; the same as ``jitflow text train``. Images are trained by ``jitflow train``."""

import sys

try:
    from jitflow.cli import main
except ImportError as error:
    sys.exit(f"jitflow cannot be imported ({error}); run `make setup` or `pip install -e .` first")

if __name__ == "__main__":
    sys.exit(main(["text", "train", *sys.argv[1:]]))
