"""Every reader of files, fed with mutants: one mechanism, some mutants in a test run, for an hour in ``make fuzz``."""
