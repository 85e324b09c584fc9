"""Other engines beside Pyroclast: on the same weights, timed in turn, each in its best setting."""
