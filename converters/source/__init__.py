"""From a path to an open checkpoint: which files, which dialect, and whether all of it fits the table."""
