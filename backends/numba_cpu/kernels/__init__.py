"""Native kernels of the CPU backend, generic in sizes, compiled once and shared by all nets."""
