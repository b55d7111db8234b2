"""The same RoFormer three times, and the tokenizer and fill-mask in front of each."""
