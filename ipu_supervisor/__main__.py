"""`python -m ipu_supervisor`: see `cli.py`."""

import sys

from ipu_supervisor.cli import main

sys.exit(main())
