"""Products of FP8 operands, summed as tensor cores sum."""
