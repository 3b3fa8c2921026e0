"""Tries the handshake against real vLLM servers: what must be caught, and what must not be suspected.

    make torture-vllm                                # about an hour on two cores; continues where it was stopped
    make torture-vllm ARGS="--bases demo-run"        # with the bases and arms that `its-train demo --out demo-run` left

case.py      what is tried, what counts as right, what was found
workshop.py  checkpoints that differ from the packaged demo in one thing each
files.py     cases that no server is needed for: files that do not hold together
gateways.py  what may stand between its-proxy and vLLM
clients.py   what a request can do to the prompt
starts.py    the servers to start, each with its cases
power.py     weights perturbed by a known share
book.py      the results so far, a line each
report.py    docs/results/vllm-handshake.md and its picture
"""
