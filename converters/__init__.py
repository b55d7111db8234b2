"""Files in, files out: imports no framework."""
