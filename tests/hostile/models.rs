//! A base model's files: configuration, tokenizer, weights.
