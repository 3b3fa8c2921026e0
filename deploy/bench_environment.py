"""Creates the environment of a peer that `make bench` measures beside its-proxy: bench_environment.py its-hub|..."""

import sys

from pinned import Pinned

PEERS = {
    "its-hub": Pinned("bench-its-hub", program="its-iaas", variable="ITS_BENCH_ITS_HUB", what="its_hub"),
    "optillm": Pinned("bench-optillm", program="optillm", variable="ITS_BENCH_OPTILLM", what="optillm"),
    "plain": Pinned("bench-plain", program="uvicorn", variable="ITS_BENCH_PLAIN", what="Starlette and httpx"),
}

if __name__ == "__main__":
    if sys.argv[1:] not in [[peer] for peer in PEERS]:
        sys.exit(f"its-proxy: which environment? One of: {', '.join(PEERS)}")
    PEERS[sys.argv[1]].provide()
