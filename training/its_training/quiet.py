"""Keeps libraries that train from talking over our own progress, and from reaching out to any network."""

import os
import warnings


def quiet_libraries() -> None:
    """Call it before the first import of transformers, datasets or trl."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", module=r"(trl|transformers|accelerate)\.")
