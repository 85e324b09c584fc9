"""What `kernels new` writes: the first, correct file of a variant, per technology."""
