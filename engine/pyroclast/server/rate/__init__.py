"""The page of `pyroclast rate`: two answers, and which one is better."""
