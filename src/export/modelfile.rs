//! Ollama's recipe of a merged GGUF file.

use std::path::Path;

/// Ollama's recipe; it takes the template out of the GGUF.
pub(super) fn text(out: &Path) -> String {
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    format!("# ollama create NAME -f THIS-FILE\nFROM ./{name}\nPARAMETER temperature 0\n")
}

/// Where the recipe of a model file lies: beside it, under its name.
pub(super) fn place(out: &Path) -> std::path::PathBuf {
    out.with_extension("Modelfile")
}
