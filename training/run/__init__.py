"""The loop over the steps: batches in, and on the way log lines, evaluations and checkpoints."""
