"""The operator audit: what Paddle would dispatch on a GPU, recorded without one. ``python -m audit --help``."""
