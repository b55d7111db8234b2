"""What a run says: log lines, metrics, curves, the line at the bottom of the terminal, the picture."""
