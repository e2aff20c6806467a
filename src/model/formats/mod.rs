//! The forms of files that models and adapters come in. Nothing here knows what a tensor is for.

pub(crate) mod gguf;
pub(crate) mod json;
pub(crate) mod mapped;
pub(crate) mod safetensors;

/// How a file begins that Git LFS keeps elsewhere.
pub(crate) const LFS_POINTER: &[u8] = b"version https://git-lfs";
/// What is said of such a file.
pub(crate) const IS_LFS_POINTER: &str = "is Git LFS's pointer to the file, and not the file; run `git lfs pull` there";

/// Bytes of a `tokenizer.json`; Gemma 3's, one of the largest, has 33 MB.
pub(crate) const MOST_TOKENIZER_BYTES: u64 = 128 << 20;
/// Bytes of a chat template.
pub(crate) const MOST_TEMPLATE_BYTES: u64 = 1 << 20;
