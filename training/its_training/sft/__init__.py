"""`its-train sft`: fine-tunes an arm from a recipe file."""
