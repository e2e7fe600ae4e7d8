"""sensor: watches a mirror port and keeps exactly the packets that match a rule.

Importing this package needs neither root nor BCC.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's threads would stay outside of sandboxes

DISTRIBUTION = "xdp-sensor"
"""The name that pip knows this package by."""
