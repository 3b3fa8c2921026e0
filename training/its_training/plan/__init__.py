"""`its-train plan`: what a recipe needs, and a rehearsal of it on a tiny model."""
