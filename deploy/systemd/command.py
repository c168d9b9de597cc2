#!/usr/bin/python3 -I
"""Installed as /usr/local/sbin/model-server, root's own: all that a deployment's user may run as root."""

import sys

sys.path.insert(0, "/usr/local/lib/model-server")

# Only this copy, never one of the caller's.
from deploy.host.cli import main

sys.exit(main())
