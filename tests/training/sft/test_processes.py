import pytest

from its_proxy.codesign.errors import ConfigError
from its_training.recipe import Compute
from its_training.sft.processes import LAUNCH, Processes, check_launch, launched
from tests.training.sft.conftest import CHECKOUT


def check(processes, *, any_world_size=False, **compute):
    check_launch(Compute(**{"device": "cuda", **compute}), processes, any_world_size=any_world_size)


def test_one_process_where_no_launcher_says_otherwise(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"):
        monkeypatch.delenv(name, raising=False)
    assert launched() == Processes(1, 0, "none")


def test_a_launcher_that_started_fewer_processes_is_told():
    with pytest.raises(
        ConfigError, match=r"n_devices is 2, 1 processes were started \(torchrun --standalone --nproc-per-node 2"
    ):
        check(Processes(1, 0, "none"), n_devices=2, parallel="ddp")
    check(Processes(1, 0, "none"), n_devices=2, parallel="ddp", any_world_size=True)


@pytest.mark.parametrize(
    ("wanted", "found"), [("fsdp2", "none"), ("zero3", "fsdp2"), ("fsdp2", "fsdp1"), ("ddp", "zero3")]
)
def test_another_sharding_than_the_recipe_s_is_told_with_the_line_that_starts_it(wanted, found):
    with pytest.raises(
        ConfigError, match=rf"parallel is {wanted}, the launcher set up {found} \((accelerate|torchrun)"
    ):
        check(Processes(2, 0, found), n_devices=2, parallel=wanted, any_world_size=True)


@pytest.mark.parametrize(
    ("wanted", "found"), [("none", "none"), ("ddp", "none"), ("fsdp2", "fsdp2"), ("zero3", "zero3")]
)
def test_what_the_recipe_asks_for_is_taken(wanted, found):
    n = 1 if wanted == "none" else 2
    check(Processes(n, 1, found), n_devices=n, parallel=wanted)


def test_the_launch_lines_name_files_that_exist():
    named = [word for line in LAUNCH.values() for word in line.split() if word.startswith("training/")]
    assert named
    assert all((CHECKOUT / name).is_file() for name in named)
