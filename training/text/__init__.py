"""From raw text to token ids: files, sentences, words, the tokenizer that a corpus carries."""
