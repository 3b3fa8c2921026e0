import pytest

from its_proxy.codesign.errors import ConfigError
from its_training.sft.metrics import check_loggers, keep_until, tokens_by_step


def test_lines_after_the_step_that_a_run_goes_on_from_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"step": {step}, "loss": 1.0}}\n' for step in (1, 2, 3, 4)) + '{"step": 2, "lo')
    keep_until(path, 2)
    assert path.read_text() == '{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 1.0}\n'
    keep_until(path, 0)
    assert path.read_text() == ""
    keep_until(tmp_path / "absent.jsonl", 3)


def test_a_logger_that_is_not_installed_is_one_line():
    check_loggers(("tensorboard",))
    with pytest.raises(ConfigError, match=r"wandb is not installed \(pip install wandb"):
        check_loggers(("tensorboard", "wandb"))


def test_tokens_add_up_over_the_steps():
    assert tokens_by_step([10, 1, 100], [2, 0, 1, 1], rows_per_step=2) == [110, 112]
