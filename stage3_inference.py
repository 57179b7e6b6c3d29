"""Stage 3 of micro-Doppler: draw pictures of users; the same as ``jitflow microdoppler sample``."""

import sys

try:
    from jitflow.cli import main
except ImportError as error:
    sys.exit(f"jitflow cannot be imported ({error}); run `make setup` or `pip install -e .` first")

if __name__ == "__main__":
    sys.exit(main(["microdoppler", "sample", *sys.argv[1:]]))
