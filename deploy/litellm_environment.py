"""Creates the environment with LiteLLM that `make test-litellm` runs its proxy from; `.venv` stays untouched."""

from pinned import Pinned

if __name__ == "__main__":
    Pinned("litellm", program="litellm", variable="ITS_LITELLM", what="LiteLLM").provide()
