"""OpenAI's own package for JavaScript."""

from tests.clients.openai_surface import *  # noqa: F403
from tests.clients.program import FOLDER, running

CLIENT, DISTRIBUTION, ENVIRONMENT = "openai (Node)", "openai", "npm"
NOT_APPLICABLE: dict[str, str] = {}


def program(world, installed):
    return running(world, "node", FOLDER / "with_openai.mjs", NPM=str(installed.folder))
