"""`its-train record`: what a checkpoint was trained with and how to recognise it, sealed into it."""
