"""`python launcher/sweep.py GRID.yaml [key=value ...]`, from any working directory."""

import sys
from pathlib import Path

# Python put this script's folder first on the path: from there `launcher` would not be found, and
# `plan` or `status` would shadow other people's modules.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from launcher.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(["sweep", *sys.argv[1:]]))
