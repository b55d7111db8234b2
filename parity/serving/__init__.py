"""The software that serves a checkpoint: asked in its own environment, held against ours, explained."""
