"""One step: losses, gradients over all processes, the optimiser, and the checkpoint of where it stands."""
