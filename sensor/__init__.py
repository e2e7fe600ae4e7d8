"""sensor: watches a mirror port and keeps exactly the packets that match a rule.

Importing this package needs neither root nor BCC.
"""

DISTRIBUTION = "xdp-sensor"
"""The name that pip knows this package by."""
