"""Before a run: does it fit, what will compute, how long will it take."""
