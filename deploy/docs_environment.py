"""Creates the environment with mkdocs-material that `make docs` builds the site in; `.venv` stays untouched."""

from pinned import Pinned

if __name__ == "__main__":
    Pinned("docs", program="mkdocs", variable="ITS_DOCS", what="mkdocs-material").provide()
