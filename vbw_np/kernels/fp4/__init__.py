"""FP4: quantizing, dequantizing, operands in panels, and their products."""
