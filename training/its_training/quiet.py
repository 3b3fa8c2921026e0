"""Sets libraries that train up for a run of ours: so many threads, no network, none of their own progress bars."""

import os
import warnings


def quiet_libraries(threads: int) -> None:
    """Call it before anything else imports torch, transformers, datasets or trl."""
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import datasets
    import torch
    import transformers

    torch.set_num_threads(threads)
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", module=r"(trl|transformers|accelerate)\.")
