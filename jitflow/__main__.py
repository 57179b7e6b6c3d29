"""``python -m jitflow`` is ``jitflow``."""

import sys

from jitflow.cli import main

sys.exit(main())
