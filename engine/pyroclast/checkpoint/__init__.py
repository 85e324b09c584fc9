"""Weights on disk, by canonical name: opened, matched with a config, converted, or random."""
