"""Let the tests of this folder import what they share by its bare name, as their scripts do."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
