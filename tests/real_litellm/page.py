"""The configurations on a page of docs/, as a reader copies them."""

import re
from typing import Any

import yaml

from tests.command import ROOT


def configurations(page: str) -> list[Any]:
    """Its YAML blocks in their order."""
    return [
        yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", _text(page), re.MULTILINE | re.DOTALL)
    ]


def code(page: str) -> list[str]:
    """Its Python blocks in their order."""
    return re.findall(r"^```python\n(.*?)^```", _text(page), re.MULTILINE | re.DOTALL)


def _text(page: str) -> str:
    return (ROOT / "docs" / page).read_text("utf-8")
