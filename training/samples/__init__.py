"""From shards to batches: which stretch of text is which sample, what is masked, what is in a step."""
