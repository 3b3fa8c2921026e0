"""Creates the environment with inspect-ai that `make test-eval` runs it from; `.venv` stays untouched."""

from pinned import Pinned

if __name__ == "__main__":
    Pinned("eval", program="inspect", variable="ITS_EVAL", what="inspect-ai").provide()
