"""The ops `route`, which chooses the experts of each token, and `group`, which sorts the choices by
expert.

See reference.py for the contracts.
"""

FORMATS = ("f32",)
# What makes scores of a router's logits; the op's parameter `scoring` is the place in this list.
SCORINGS = ("softmax", "sigmoid")
