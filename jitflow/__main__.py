"""``python -m jitflow`` is ``jitflow``.

Run as a file, it imports no module of the working folder; the stages of a pipeline are started this way.
"""

import os.path
import sys

if __name__ == "__main__":
    if __spec__ is None:
        # Python put this package's own folder first, whose modules are not to be taken for those of the library.
        # os.path is loaded before it does; pathlib is not.
        package = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120
        sys.path[:] = [place for place in sys.path if place not in ("", package)]
        home = os.path.dirname(package)  # noqa: PTH120
        if home not in sys.path:
            sys.path.append(home)
    from jitflow.cli import main

    sys.exit(main())
