"""What all tests share: an environment that reaches for no model hub, and the optional benchmark data."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

# Before anything imports transformers, which reads them once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

# A shell's background job ignores Ctrl-C, and so would the commands that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def same_environment() -> Iterator[None]:
    """A command that a test runs in this process leaves none of its variables to the next test."""
    before = dict(os.environ)
    yield
    for name in set(os.environ) - set(before) - {"PYTEST_CURRENT_TEST"}:
        del os.environ[name]


@pytest.fixture(autouse=True)
def same_log() -> Iterator[None]:
    """Nor its level of the log."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of benchmark questions (gsm8k-test.jsonl and others) that ITS_TEST_DATA names."""
    named = os.environ.get("ITS_TEST_DATA")
    if not named:
        pytest.skip("ITS_TEST_DATA is not set: it names a folder with gsm8k-train.jsonl, gsm8k-test.jsonl and others")
    folder = Path(named)
    assert folder.is_dir(), f"ITS_TEST_DATA names no folder: {folder}"
    return folder
