"""How the proxy's cost grows with the work: candidates, prompts, answers, models, pools, keys, history."""
