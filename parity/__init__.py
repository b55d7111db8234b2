"""Prove that conversions agree: bit by bit under canonical names, and by what the three frameworks compute."""
