"""Creates the environment with schemathesis and atheris that `make fuzz` runs; `.venv` stays untouched."""

from pinned import Pinned

if __name__ == "__main__":
    Pinned("fuzz", program="schemathesis", variable="ITS_FUZZ", what="schemathesis and atheris").provide()
