"""How few tokens does a vote need: accuracy, generated tokens and wall time over n, first wave and stop rule."""
