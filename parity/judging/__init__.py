"""Whether they agree: distances, the bounds that rounding leaves them, orders of answers, verdicts."""
