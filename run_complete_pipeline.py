"""All three stages of micro-Doppler, one after another; the same as ``jitflow microdoppler run``."""

import sys

try:
    from jitflow.cli import main
except ImportError as error:
    sys.exit(f"jitflow cannot be imported ({error}); run `make setup` or `pip install -e .` first")

if __name__ == "__main__":
    sys.exit(main(["microdoppler", "run", *sys.argv[1:]]))
