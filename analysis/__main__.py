"""`python -m analysis ...`, the same as `calsweep analyse ...`."""

import sys

from analysis.cli import main

sys.exit(main())
