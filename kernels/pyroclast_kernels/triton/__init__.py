"""What the Triton variants share: the device, launches, tiles, and weights as they lie there."""
