"""The float32 product, whose sums run in one order."""
