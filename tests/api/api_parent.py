"""A program that starts the API process as `sensor run` does: ``python api_parent.py EVIDENCE``."""

from __future__ import annotations

import logging
import sys
import time

from sensor.config.loading import load_settings
from sensor.live.api_process import ApiProcess

logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
api = ApiProcess(load_settings({"evidence": sys.argv[1], "listen": "127.0.0.1:0"}))
sys.stdout.write(f"{api.pid}\n")
sys.stdout.flush()
try:
    while True:
        api.tick()
        time.sleep(0.1)
except KeyboardInterrupt:
    api.close()
