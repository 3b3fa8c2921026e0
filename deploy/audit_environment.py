"""Creates the environment with pip-audit that `make audit` runs; `.venv` stays untouched."""

from pinned import Pinned

if __name__ == "__main__":
    Pinned("audit", program="pip-audit", variable="ITS_AUDIT", what="pip-audit").provide()
