//! Adapters: PEFT directories and GGUF files.
