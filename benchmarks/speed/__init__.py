"""What its-proxy costs beside others, measured side by side: CPU of the whole process tree, rates, latencies.

    python -m benchmarks.speed [--rounds 3] [--seconds 1] [--only json-64 --only vote-16]

Every target is started once, and in every round all of them are measured in turn, so that whatever else the machine
does hits all alike. The upstream and the load generator are small C programs (upstream.c, load.c), so that they are
not what is measured.
"""
