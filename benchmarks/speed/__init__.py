"""What its-proxy costs beside others, measured side by side: CPU of the whole process tree, rates, latencies, memory.

    make bench                                    # all of it, about 15 minutes, and docs/performance.md
    make bench ARGS=--quick                       # 2 to 3 minutes: whether all works
    python -m benchmarks.speed --only json-64 --only vote-16 --target nginx --target its-proxy

Every target is started once, and in every round all of them are measured in turn, so that whatever else the machine
does hits all alike. The upstream and the load generator are small C programs (upstream.c, load.c), so that they are
not what is measured; targets have one core to themselves, those two the other. Before any vote is timed, its answer
and its upstream calls are looked at.
"""
