"""Twins of autograd's operations: elementwise, along rows, losses, shortest paths, the optimizer's step."""
