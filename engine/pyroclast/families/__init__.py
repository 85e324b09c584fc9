"""Model families as data: a config, how it is read, the names of tensors in both formats."""
