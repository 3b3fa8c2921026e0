"""The training companion of its-proxy: prepares matched arms, fine-tunes them and seals `its.json` into checkpoints."""
