"""Personas by a language model: written, checked, frozen into a pool, and reported on."""
