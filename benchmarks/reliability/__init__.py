"""What its-proxy survives, measured: a module for each thing that must be shown, one result file each.

    python -m benchmarks.reliability.disconnects      # writes docs/results/reliability/disconnects.json
    python -m benchmarks.reliability.page             # writes docs/reliability.md from all of them

They share `world` (its-proxy and an upstream that does as each query wishes, both as processes of their own),
`clients` (bare connections that leave as one likes, and load at a rate) and `results`.
"""
