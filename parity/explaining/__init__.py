"""Why they do not: every step recomputed in numpy, and mistakes put in until one gives what was computed."""
