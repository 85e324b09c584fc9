"""What the Cython variants share: how their modules are found and registered."""
