"""From text to token ids: the vocabulary's files, the tokenizer, windows over long texts."""
