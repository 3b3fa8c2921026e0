"""OpenAI's own package for Python."""

from tests.clients.openai_surface import *  # noqa: F403
from tests.clients.program import FOLDER, running

CLIENT, DISTRIBUTION, ENVIRONMENT = "openai (Python)", "openai", "openai"
NOT_APPLICABLE: dict[str, str] = {}


def program(world, installed):
    return running(world, installed.python, FOLDER / "with_openai.py")
