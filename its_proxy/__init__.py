"""its-proxy: serve a persona-trained checkpoint the way it was trained, and vote over its answers."""

__version__ = "0.1.0"
