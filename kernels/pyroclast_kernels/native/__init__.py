"""What the compiled variants share: the C ABI, the executor, and how modules are opened."""
