//! The forms of files that models and adapters come in. Nothing here knows what a tensor is for.

pub(crate) mod gguf;
pub(crate) mod json;
pub(crate) mod mapped;
pub(crate) mod safetensors;

/// How a file begins that Git LFS keeps elsewhere.
pub(crate) const LFS_POINTER: &[u8] = b"version https://git-lfs";
/// What is said of such a file.
pub(crate) const IS_LFS_POINTER: &str = "is Git LFS's pointer to the file, and not the file; run `git lfs pull` there";
