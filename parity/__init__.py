"""Prove that conversions agree: today bit by bit under canonical names, for every ordered pair of dialects."""
