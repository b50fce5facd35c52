"""One token through all layers of a Llama: the definition in NumPy, and one kernel."""
