"""Who computes: which directory in which framework, its process, and the dump that it leaves."""
