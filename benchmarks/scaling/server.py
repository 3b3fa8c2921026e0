"""`its-proxy serve` with settings that no file holds: reads them from stdin as JSON, and says where it serves."""

import json
import sys

from its_proxy.server.run import run
from its_proxy.settings import load_settings

if __name__ == "__main__":
    run(load_settings(None, {}, json.load(sys.stdin)), lambda url, context: print(url, flush=True))
