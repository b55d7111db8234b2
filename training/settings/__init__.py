"""What a run shall do: the tables of ``configs/*.toml`` and the flags over them, read and checked."""
