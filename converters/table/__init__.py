"""What a RoFormer is, by name: every tensor in every dialect, every field of its configuration."""
