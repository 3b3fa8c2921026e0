"""Creates the environment with Playwright that `make test-browser` runs in; `.venv` stays untouched.

The browser is the machine's own Chromium, as Playwright's builds come from no package registry; ITS_CHROMIUM names
another.
"""

import os
import shutil

from pinned import Pinned, unavailable

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")

if __name__ == "__main__":
    wanted = [os.environ["ITS_CHROMIUM"]] if os.environ.get("ITS_CHROMIUM") else CHROMIUM
    if not any(map(shutil.which, wanted)):
        unavailable(f"no {' or '.join(wanted)} here (Debian: apt install chromium)")
    Pinned("browser", program="playwright", variable="ITS_BROWSER", what="Playwright").provide()
