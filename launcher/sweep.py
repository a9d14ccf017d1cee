"""`python launcher/sweep.py GRID.yaml [key=value ...]`, from any working directory."""

import sys
from pathlib import Path

# Python put this script's folder first on the path: from there `launcher` would not be found, and
# `plan` or `status` would shadow other people's modules.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from launcher.cli import main  # noqa: E402

if __name__ == "__main__":
    try:
        code = main(["sweep", *sys.argv[1:]])
    except ModuleNotFoundError as error:  # the system's Python instead of the project's
        remedy = "run 'make setup', then 'source .venv/bin/activate'"
        print(f"calsweep: {sys.executable} has no module '{error.name}'; {remedy}", file=sys.stderr)
        code = 2
    sys.exit(code)
