"""`its-train report`: what a run left behind, as a page and as a section of a model card."""
