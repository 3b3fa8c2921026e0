"""For mkdocs: pages link to files of the checkout, which are no part of the site; there a link becomes its text.

A file that is not in the checkout is warned of, which `make docs` takes for an error.
"""

import logging
import re
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(((?:\.\./)+[^)#\s]+)(?:#[^)\s]*)?\)")
log = logging.getLogger("mkdocs.hooks.links")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    source = Path(page.file.abs_src_path)

    def shown(link: re.Match[str]) -> str:
        target = (source.parent / link[2]).resolve()
        if target.is_relative_to(CHECKOUT / "docs"):
            return link[0]
        if not target.exists():
            log.warning("Doc file '%s' links to '%s', which is not in the checkout.", page.file.src_uri, link[2])
        text, file = link[1].strip("`"), str(target.relative_to(CHECKOUT))
        return f"`{file}`" if text in (file, target.name) else f"{link[1]} (`{file}`)"

    return LINK.sub(shown, markdown)
