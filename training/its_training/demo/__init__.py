"""`its-train demo`: the demo checkpoints, from nothing to sealed."""
