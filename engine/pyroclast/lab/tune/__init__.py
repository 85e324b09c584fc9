"""The fastest variants and tiles of this machine, found by measurement and kept."""
