"""From an open checkpoint to a directory in place: planned, written, read back, renamed."""
