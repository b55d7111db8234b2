"""What a run starts from: its corpora, their vocabulary, and a model."""
