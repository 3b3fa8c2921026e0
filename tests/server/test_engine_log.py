"""What vLLM's lines tell: how far its start is, and why it ended."""

import pytest

from its_proxy.server.engine_log import MAX_CAUSE, N_LAST_LINES, cause_of, last_lines, plain, stage_of

WORKER = "(Worker pid=9) ERROR 11-21 09:44:01 [worker.py:7] "


@pytest.mark.parametrize(
    ("line", "stage"),
    [
        ("(APIServer pid=7) INFO 11-21 09:39:54 [model.py:7] Resolved architecture: Qwen", "reading the configuration"),
        ("(Worker pid=9) INFO 11-21 09:40:09 [runner.py:68] Starting to load model /models/qwen...", "loading weights"),
        ("Loading safetensors checkpoint shards:  45% Completed | 5/11 [00:21<00:25,  4.2s/it]",
         "loading safetensors checkpoint shards 5/11"),
        ("(Worker pid=9) Loading pt checkpoint shards:   0% Completed | 0/2 [00:00<?, ?it/s]",
         "loading pt checkpoint shards 0/2"),
        ("Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  51%|█████     | 34/67 [00:02<00:01, 20.1it/s]",
         "capturing CUDA graphs (mixed prefill-decode, PIECEWISE) 34/67"),
        ("Fetching 11 files:  45%|████▌     | 5/11 [00:00<00:00, 43.90it/s]", "fetching 11 files 5/11"),
        ("(Worker pid=9) INFO 11-21 09:40:09 [loader.py:501] Loading weights took 0.01 seconds", "preparing the model"),
        ("(EngineCore pid=8) INFO 11-21 09:40:09 [u.py:2] GPU KV cache size: 1,048 tokens", "preparing the KV cache"),
        ("(APIServer pid=7) INFO 11-21 09:40:14 [launcher.py:186] Available routes are:", "opening its port"),
        ("(APIServer pid=7) WARNING 11-21 09:39:54 [vllm.py:1703] Enforce eager set, disabling torch.compile", None),
        ("it is 45% done, 5/11 or so", None),
        ("/models/secret:  10%|█         | 1/10 [00:00<00:09,  1.0it/s]", None),
        ("", None),
    ],
)  # fmt: skip
def test_a_line_tells_the_stage(line, stage):
    assert stage_of(line) == stage


def test_a_line_is_bared_of_process_level_date_and_place():
    assert plain(WORKER + "no memory") == "no memory"
    assert plain("ERROR 11-21 09:44:01 [worker.py:7] no memory") == "no memory"
    assert plain("(not pid) no memory") == "(not pid) no memory"


TRACEBACK = (
    WORKER + "WorkerProc hit an exception.",
    WORKER + "Traceback (most recent call last):",
    WORKER + '  File "worker.py", line 7, in load',
    WORKER + "    raise ValueError(",
    WORKER + "          ^^^^^^^^^^",
    WORKER + "ValueError: no memory for 4000 GiB",
    WORKER + "Traceback (most recent call last):",
    WORKER + "ValueError: no memory for 4000 GiB",
    "(Worker pid=9) INFO 11-21 09:44:02 [worker.py:9] going",
    "Traceback (most recent call last):",
    '  File "core.py", line 70, in start',
    "    raise RuntimeError(",
    "RuntimeError: Engine core initialization failed. See root cause above.",
    "/lib/multiprocessing/resource_tracker.py:254: UserWarning: resource_tracker: There appear to be 1 leaked",
    "  warnings.warn('resource_tracker: There appear to be %d '",
)


def test_the_cause_is_the_first_error_as_the_others_come_of_it():
    assert cause_of(TRACEBACK) == "ValueError: no memory for 4000 GiB"


def test_the_last_lines_are_those_that_tell_something_and_each_once():
    assert last_lines(TRACEBACK) == [
        WORKER + "WorkerProc hit an exception.",
        WORKER + "ValueError: no memory for 4000 GiB",
        "RuntimeError: Engine core initialization failed. See root cause above.",
    ]


def test_the_last_lines_are_few():
    assert last_lines(f"line {k}" for k in range(99)) == [f"line {k}" for k in range(99 - N_LAST_LINES, 99)]


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        (["usage: vllm serve [options]", "vllm serve: error: argument --dtype: invalid choice: 'float7'"],
         "argument --dtype: invalid choice: 'float7'"),
        (["vllm: error: unrecognized arguments: --no-such-flag"], "unrecognized arguments: --no-such-flag"),
        (["pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig",
          "  Value error, no such folder [type=value_error, input_value=...]"],
         "ValidationError: 1 validation error for ModelConfig: Value error, no such folder"),
        (["torch.OutOfMemoryError: CUDA out of memory."], "OutOfMemoryError: CUDA out of memory."),
        (["(EngineCore pid=8) ERROR 11-21 09:51:53 [x.py:3] Worker proc 0 died unexpectedly (exit code: -9)",
          "RuntimeError: Executor failed."], "Worker proc 0 died unexpectedly (exit code: -9)"),
        (["(APIServer pid=7) WARNING 11-21 09:39:54 [a.py:2] beware of `OSError: [Errno 24]`", "bye"], "bye"),
        (["INFO:     127.0.0.1:5 - GET /health"], ""),
        ([], ""),
    ],
)  # fmt: skip
def test_a_cause_is_one_line(lines, cause):
    assert cause_of(lines) == cause


def test_a_long_cause_is_cut():
    assert len(cause_of(["ValueError: " + "x" * 10_000])) == MAX_CAUSE
