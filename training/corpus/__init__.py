"""From token ids to shards on disk: divided into work, made by any number of processes, read back."""
