//! Model files on this machine.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use super::{HfFiles, ModelFiles, ModelKind};
use crate::error::{Error, Result};
use crate::files::open_regular;
use crate::model::formats::json;
use crate::model::formats::json::read_json;
use crate::model::formats::{MOST_TEMPLATE_BYTES, MOST_TOKENIZER_BYTES};

/// Weights in one file.
pub(super) const SINGLE: &str = "model.safetensors";
/// Which tensor is in which shard.
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// The model at `path`: a directory in the hub's layout, or a GGUF file.
pub(super) fn open(path: &Path) -> Result<ModelFiles> {
    if path.as_os_str().is_empty() {
        return Err(Error::Usage(
            "the model is an empty path; give a path, hf:ORG/NAME or pypi:PACKAGE==VERSION/PATH".into(),
        ));
    }
    let metadata = std::fs::metadata(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound if !path.is_symlink() => Error::model(path, not_there(path)),
        // Which tells where a link leads.
        _ => open_regular(path).err().unwrap_or_else(|| Error::io(path, "read")(e)),
    })?;
    if metadata.is_dir() { directory(path) } else { gguf(path) }
}

/// The model at `path` for one who reads its description: a directory may lack weights, and a `config.json` may stand alone.
pub(crate) fn on_paper(path: &Path) -> Result<ModelFiles> {
    if path.extension().is_none_or(|e| !e.eq_ignore_ascii_case("json")) && !path.is_dir() {
        return open(path);
    }
    let mut files = if path.is_dir() { described(path)? } else { alone(path)? };
    // Pickled weights and a download that is under way have a description too.
    files.weights = if path.is_dir() { weights(path).unwrap_or_default() } else { Vec::new() };
    Ok(ModelFiles { root: path.to_path_buf(), kind: ModelKind::HuggingFace(files) })
}

fn alone(config: &Path) -> Result<HfFiles> {
    open_regular(config)?;
    Ok(HfFiles {
        dir: config.parent().unwrap_or(Path::new("")).to_path_buf(),
        config: not_longer(config.to_path_buf(), json::MOST_BYTES)?,
        tokenizer: None,
        tokenizer_config: None,
        generation_config: None,
        chat_template: None,
        weights: Vec::new(),
    })
}

/// A GGUF file, told by its first four bytes.
pub(super) fn gguf(path: &Path) -> Result<ModelFiles> {
    let mut bytes = Vec::with_capacity(4);
    let (file, _) = open_regular(path)?;
    file.take(4).read_to_end(&mut bytes).map_err(Error::io(path, "read"))?;
    if bytes != b"GGUF" {
        let hint = match path.extension().and_then(|e| e.to_str()) {
            Some("safetensors") => "; name its directory instead, which holds config.json too",
            Some("bin" | "pt" | "pth") => {
                "; pickled weights can run code and are not read: convert them to safetensors"
            }
            _ => "",
        };
        return Err(Error::model(path, format!("is not a GGUF file: it does not begin with `GGUF`{hint}")));
    }
    Ok(ModelFiles { root: path.to_path_buf(), kind: ModelKind::Gguf(path.to_path_buf()) })
}

/// A directory in the hub's layout.
pub(super) fn directory(dir: &Path) -> Result<ModelFiles> {
    let mut files = described(dir)?;
    files.weights = weights(dir)?;
    Ok(ModelFiles { root: dir.to_path_buf(), kind: ModelKind::HuggingFace(files) })
}

/// The files of a directory in the hub's layout besides its weights.
pub(super) fn described(dir: &Path) -> Result<HfFiles> {
    // They are hashed before they are read.
    let file = |name: &str, most: u64| match present(dir.join(name))? {
        Some(path) => not_longer(path, most).map(Some),
        None => Ok(None),
    };
    let json = |name: &str| file(name, json::MOST_BYTES);
    let Some(config) = json("config.json")? else {
        return Err(Error::model(dir, format!("has no config.json; {}", listing(dir)?)));
    };
    Ok(HfFiles {
        dir: dir.to_path_buf(),
        config,
        tokenizer: file("tokenizer.json", MOST_TOKENIZER_BYTES)?,
        tokenizer_config: json("tokenizer_config.json")?,
        generation_config: json("generation_config.json")?,
        chat_template: file("chat_template.jinja", MOST_TEMPLATE_BYTES)?,
        weights: Vec::new(),
    })
}

/// The file, if there is one. A link to nothing and what is no file are errors, not absent.
fn present(path: PathBuf) -> Result<Option<PathBuf>> {
    match path.symlink_metadata() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        _ if path.is_file() => Ok(Some(path)),
        _ => open_regular(&path).map(|_| Some(path)),
    }
}

fn not_longer(path: PathBuf, most: u64) -> Result<PathBuf> {
    let bytes = path.metadata().map_err(Error::io(&path, "read"))?.len();
    if bytes > most {
        return Err(Error::model(path, format!("has {bytes} bytes, expected at most {most}")));
    }
    Ok(path)
}

fn weights(dir: &Path) -> Result<Vec<PathBuf>> {
    if let Some(single) = present(dir.join(SINGLE))? {
        return Ok(vec![single]);
    }
    let Some(index) = present(dir.join(INDEX))? else {
        let names = names(dir)?;
        if names.iter().any(|n| is_pickle(n)) {
            return Err(Error::model(dir, pickle_message()));
        }
        return Err(Error::model(dir, format!("has neither {SINGLE} nor {INDEX}; {}", listing(dir)?)));
    };
    let shard = |name: &String| {
        let path = dir.join(name);
        let missing = || Error::model(&path, format!("is missing, but {INDEX} names it"));
        present(path.clone())?.ok_or_else(missing)
    };
    shards(&index)?.iter().map(shard).collect()
}

/// The shards that an index names, each once, in the order of their names.
pub(super) fn shards(index: &Path) -> Result<Vec<String>> {
    let json = read_json(index)?;
    let Some(map) = json["weight_map"].as_object().filter(|m| !m.is_empty()) else {
        return Err(Error::model(index, "has no weight_map from tensors to files"));
    };
    let mut names = BTreeSet::new();
    for (tensor, file) in map {
        let name = file.as_str().unwrap_or_default();
        let mut parts = Path::new(name).components();
        let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
        if !plain || name.contains(['/', '\\', ':']) || !name.ends_with(".safetensors") {
            let message =
                format!("puts tensor {tensor:?} in {file}, expected the name of a .safetensors file beside it");
            return Err(Error::model(index, message));
        }
        names.insert(name.to_owned());
    }
    Ok(names.into_iter().collect())
}

/// Whether a file name is one of weights that are loaded by running a pickle.
pub(super) fn is_pickle(name: &str) -> bool {
    let weights = name.starts_with("pytorch_model") || name.starts_with("consolidated") || name.starts_with("model");
    weights && matches!(Path::new(name).extension().and_then(|e| e.to_str()), Some("bin" | "pt" | "pth"))
}

pub(super) fn pickle_message() -> String {
    "has only pickled weights (pytorch_model.bin), which can run code when they are read; convert them: \
     AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(DIR, safe_serialization=True)"
        .to_owned()
}

fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(dir).map_err(Error::io(dir, "read"))?;
    let mut names: Vec<String> = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    Ok(names)
}

fn listing(dir: &Path) -> Result<String> {
    let names = names(dir)?;
    if names.is_empty() {
        return Ok("the directory is empty".to_owned());
    }
    let ggufs: Vec<&String> = names.iter().filter(|n| n.ends_with(".gguf")).collect();
    if let [one] = ggufs.as_slice() {
        return Ok(format!("to use the GGUF file in it, name that file: {}", dir.join(one).display()));
    }
    let shown = names.iter().take(12).map(|n| super::printable(n, 80)).collect::<Vec<_>>().join(", ");
    let more = if names.len() > 12 { format!(" and {} more", names.len() - 12) } else { String::new() };
    Ok(format!("it holds {shown}{more}"))
}

/// Why a path is no model. Other tools write a repository as ORG/NAME, without `hf:`.
fn not_there(path: &Path) -> String {
    let names = [path.parent().and_then(Path::file_name), path.file_name()].map(|name| name.and_then(|n| n.to_str()));
    let meant = match names {
        [Some(owner), Some(name)]
            if path.parent().is_some_and(|folder| !folder.exists()) && path.extension().is_none_or(|e| e != "gguf") =>
        {
            format!("; did you mean hf:{owner}/{name}?")
        }
        _ => String::new(),
    };
    format!(
        "there is no such file or directory; [model] source is a path, hf:ORG/NAME or pypi:PACKAGE==VERSION/PATH{meant}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    fn message(dir: &tempfile::TempDir) -> String {
        open(dir.path()).unwrap_err().to_string()
    }

    #[cfg(unix)]
    #[test]
    fn a_link_to_nothing_and_a_pipe_are_not_absent() {
        for name in ["config.json", SINGLE, "tokenizer.json", "generation_config.json", "chat_template.jinja"] {
            let dir = project(&[("config.json", "{}"), (SINGLE, "")]);
            let path = dir.path().join(name);
            let _ = std::fs::remove_file(&path);
            std::os::unix::fs::symlink("nowhere", &path).unwrap();
            let told = message(&dir);
            assert!(told.contains(name) && told.ends_with("it is a link to nowhere, which is not there"), "{told}");
            std::fs::remove_file(&path).unwrap();
            assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
            let told = message(&dir);
            assert!(told.ends_with(&format!("{name}: is a named pipe, expected a regular file")), "{told}");
            let told = open(&path).unwrap_err().to_string();
            assert!(told.ends_with("is a named pipe, expected a regular file"), "{told}");
        }
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join("model")).unwrap();
        let told = open(&dir.path().join("model")).unwrap_err().to_string();
        assert!(told.ends_with("it is a link to nowhere, which is not there"), "{told}");
    }

    #[test]
    fn a_byte_order_mark_is_named() {
        let dir = project(&[("config.json", "{}"), (INDEX, "\u{feff}{}")]);
        assert!(
            message(&dir).ends_with("starts with a byte-order mark; save it as UTF-8 without BOM"),
            "{}",
            message(&dir)
        );
    }

    #[test]
    fn a_directory_with_one_weights_file_is_a_model() {
        let dir = project(&[("config.json", "{}"), (SINGLE, ""), ("tokenizer.json", "{}")]);
        let ModelKind::HuggingFace(files) = open(dir.path()).unwrap().kind else { panic!() };
        assert_eq!(files.weights, [dir.path().join(SINGLE)]);
        assert!(files.tokenizer.is_some() && files.chat_template.is_none());
    }

    #[test]
    fn shards_are_listed_once_in_order() {
        let index = r#"{"weight_map": {"a": "m-2.safetensors", "b": "m-1.safetensors", "c": "m-2.safetensors"}}"#;
        let dir = project(&[("config.json", "{}"), (INDEX, index), ("m-1.safetensors", ""), ("m-2.safetensors", "")]);
        let files = open(dir.path()).unwrap();
        assert_eq!(files.weights(), [dir.path().join("m-1.safetensors"), dir.path().join("m-2.safetensors")]);
    }

    #[test]
    fn a_missing_shard_is_named() {
        let index = r#"{"weight_map": {"a": "m-1.safetensors"}}"#;
        let dir = project(&[("config.json", "{}"), (INDEX, index)]);
        assert!(message(&dir).contains("m-1.safetensors: is missing"), "{}", message(&dir));
    }

    #[test]
    fn an_index_cannot_point_out_of_its_directory() {
        let names = [
            "../x.safetensors",
            "/x.safetensors",
            "a/b.safetensors",
            "a\\\\b.safetensors",
            "c:x.safetensors",
            "",
            "x.bin",
        ];
        for name in names {
            let index = format!(r#"{{"weight_map": {{"a": "{name}"}}}}"#);
            let dir = project(&[("config.json", "{}"), (INDEX, &index)]);
            assert!(message(&dir).contains("puts tensor \"a\""), "{name}: {}", message(&dir));
        }
    }

    #[test]
    fn pickled_weights_are_refused() {
        let dir = project(&[("config.json", "{}"), ("pytorch_model-00001-of-00002.bin", "")]);
        assert!(message(&dir).contains("can run code"), "{}", message(&dir));
    }

    #[test]
    fn a_directory_without_a_config_says_what_is_there() {
        let dir = project(&[("notes.txt", ""), (SINGLE, "")]);
        assert!(
            message(&dir).contains("has no config.json; it holds model.safetensors, notes.txt"),
            "{}",
            message(&dir)
        );
        let dir = project(&[("m.gguf", "")]);
        assert!(message(&dir).contains("name that file"), "{}", message(&dir));
    }

    #[test]
    fn a_file_is_told_by_its_magic() {
        let dir = project(&[("m.gguf", "GGUF..."), ("x.gguf", "GG"), ("w.safetensors", "12345678")]);
        assert!(matches!(open(&dir.path().join("m.gguf")).unwrap().kind, ModelKind::Gguf(_)));
        assert!(open(&dir.path().join("x.gguf")).unwrap_err().to_string().contains("does not begin with"));
        assert!(open(&dir.path().join("w.safetensors")).unwrap_err().to_string().contains("name its directory"));
        assert!(open(&dir.path().join("none")).unwrap_err().to_string().contains("no such file"));
    }
}
