"""sensor: watches a mirror port and keeps exactly the packets that hit a rule.

Importing this package needs neither root nor BCC.
"""
