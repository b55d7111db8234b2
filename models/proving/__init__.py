"""Fast ways that are held against the model itself before they are used: Paddle's kernels, CUDA graphs."""
