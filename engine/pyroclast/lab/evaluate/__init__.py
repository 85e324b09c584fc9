"""Evaluation: tasks in files, what a model gets right, and how surprised it is by a text."""
