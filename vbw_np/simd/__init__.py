"""What every kernel is written in: the door to numba, what the CPU can do, vectors, loops as LLVM IR."""
