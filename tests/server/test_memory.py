"""Long texts that have been freed are the system's again."""

import subprocess
import sys

import pytest

KEPT = """
import os
from its_proxy.server.memory import give_back_freed

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

is_glibc = give_back_freed() if {asked} else True
bytes(2**22)  # freed at once: from now on glibc thinks that long texts are usual
before, long, short = resident(), [], []
for _ in range(200):
    long.append(b"x" * 2**18)
    short.append(bytearray(2**10))  # stays, above the long ones
long.clear()
print(is_glibc, max(0, resident() - before))
"""


def kept_bytes(*, asked: bool) -> tuple[bool, int]:
    run = subprocess.run([sys.executable, "-c", KEPT.format(asked=asked)], capture_output=True, text=True, check=True)
    is_glibc, kept = run.stdout.split()
    return is_glibc == "True", int(kept)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_freed_long_texts_are_given_back():
    is_glibc, kept = kept_bytes(asked=True)
    if not is_glibc:
        pytest.skip("no glibc here")
    assert kept < 2**20 < kept_bytes(asked=False)[1]
