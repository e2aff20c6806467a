//! `hf:ORG/NAME[@REV][/FILE.gguf]` through `hf-hub`, into the cache that Python's `huggingface_hub` uses too.

use std::fmt;
use std::path::{Path, PathBuf};

use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Repo, RepoType};
use serde::{Deserialize, Serialize};

use super::cache::{Cache, Digest};
use super::local::{self, INDEX, SINGLE};
use super::{Check, Events, ModelFiles, ModelKind, SourceEvent, printable};
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::model::architecture::check_supported;
use crate::model::formats::json::read_json;

/// What is taken from a repository besides its weights, where it is there.
const SMALL_FILES: &[&str] =
    &["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"];
const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// The hub and how to reach it.
#[derive(Clone)]
pub struct Hub {
    /// Its address.
    pub endpoint: String,
    /// The `hub` directory of the cache that is shared with Python.
    pub cache: PathBuf,
    /// Access token for gated and private repositories.
    pub token: Option<String>,
    /// Never use the network.
    pub offline: bool,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = self.token.as_ref().map(|_| "…");
        f.debug_struct("Hub")
            .field("endpoint", &self.endpoint)
            .field("cache", &self.cache)
            .field("token", &token)
            .field("offline", &self.offline)
            .finish()
    }
}

/// A repository at a revision, and the one file that is wanted if it is one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Spec {
    id: String,
    revision: String,
    file: Option<String>,
}

/// What an earlier run fetched.
#[derive(Deserialize, Serialize)]
struct Fetched {
    commit: String,
    /// The directory, or the GGUF file.
    path: PathBuf,
}

impl Hub {
    /// `HF_ENDPOINT`, `HF_HUB_CACHE` or `HF_HOME`, `HF_TOKEN` (else the token file that `hf auth login` writes) and
    /// `HF_HUB_OFFLINE`, as Python's library reads them.
    #[must_use]
    pub fn from_env() -> Self {
        let set = |name: &str| std::env::var(name).ok().filter(|v| !v.trim().is_empty());
        let home = std::env::var_os("HF_HOME").filter(|v| !v.is_empty()).map(PathBuf::from).or_else(|| {
            let home = std::env::var_os(if cfg!(windows) { "USERPROFILE" } else { "HOME" })?;
            Some(Path::new(&home).join(".cache").join("huggingface"))
        });
        let home = home.unwrap_or_else(|| PathBuf::from("huggingface"));
        let written = || std::fs::read_to_string(home.join("token")).ok();
        let token = set("HF_TOKEN").or_else(written).map(|t| t.trim().to_owned()).filter(|t| !t.is_empty());
        Self {
            endpoint: set("HF_ENDPOINT")
                .unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned())
                .trim_end_matches('/')
                .to_owned(),
            cache: set("HF_HUB_CACHE").map_or_else(|| home.join("hub"), PathBuf::from),
            token,
            offline: set("HF_HUB_OFFLINE")
                .is_some_and(|v| matches!(v.to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on")),
        }
    }

    /// The files of the repository that `spec` (what follows `hf:`) names.
    pub(super) fn fetch(&self, spec: &str, cache: &Cache, check: Check<'_>, events: Events<'_>) -> Result<ModelFiles> {
        let spec = parse(spec)?;
        let key = format!("{}\n{}\n{spec:?}", self.endpoint, self.cache.display());
        let record = format!("hub/{}.json", &blake3::hash(key.as_bytes()).to_hex()[..32]);
        if let Some(files) = self.fetched(&cache.path(&record)) {
            return Ok(files);
        }
        let commit = if self.offline {
            self.cached_commit(&spec).ok_or_else(|| spec.error("is not in the cache, and HF_HUB_OFFLINE is set"))?
        } else {
            let dir = cache.directory("hub")?;
            let _lock = cache.lock(&dir, &spec.to_string(), events)?;
            if let Some(files) = self.fetched(&cache.path(&record)) {
                return Ok(files);
            }
            match self.download(&spec, cache, check, events) {
                Ok(commit) => commit,
                // What Python downloaded earlier serves without a network.
                Err(error) => self.cached_commit(&spec).filter(|c| self.open(&spec, c).is_ok()).ok_or(error)?,
            }
        };
        let files = self.open(&spec, &commit)?;
        let fetched = Fetched { commit, path: files.root.clone() };
        let path = cache.directory("hub").map(|_| cache.path(&record))?;
        let json = serde_json::to_vec(&fetched).map_err(|e| spec.error(&e.to_string()))?;
        write_atomically(&path, &json)?;
        Ok(files)
    }

    fn fetched(&self, record: &Path) -> Option<ModelFiles> {
        let fetched: Fetched = serde_json::from_slice(&std::fs::read(record).ok()?).ok()?;
        local::open(&fetched.path).ok()
    }

    fn snapshot(&self, spec: &Spec, commit: &str) -> PathBuf {
        self.cache.join(spec.repo().folder_name()).join("snapshots").join(commit)
    }

    /// The commit that the shared cache has for the revision.
    fn cached_commit(&self, spec: &Spec) -> Option<String> {
        let reference = self.cache.join(spec.repo().folder_name()).join("refs").join(&spec.revision);
        let commit = std::fs::read_to_string(reference).ok().map(|c| c.trim().to_owned());
        commit.or_else(|| Some(spec.revision.clone())).filter(|c| is_commit(c) && self.snapshot(spec, c).is_dir())
    }

    fn open(&self, spec: &Spec, commit: &str) -> Result<ModelFiles> {
        let dir = self.snapshot(spec, commit);
        match &spec.file {
            Some(file) => local::gguf(&dir.join(file)),
            None => local::directory(&dir),
        }
    }

    /// Downloads what is wanted and not in the shared cache; the commit.
    fn download(&self, spec: &Spec, cache: &Cache, check: Check<'_>, events: Events<'_>) -> Result<String> {
        let builder = ApiBuilder::new().with_cache_dir(self.cache.clone()).with_endpoint(self.endpoint.clone());
        let api = builder.with_token(self.token.clone()).with_progress(false).with_retries(2).build();
        let api = api.map_err(|e| self.error(spec, &e))?;
        let info = api.repo(spec.repo()).info().map_err(|e| self.error(spec, &e))?;
        if !is_commit(&info.sha) {
            return Err(spec.error("the hub names no commit for it"));
        }
        let names: Vec<&str> = info.siblings.iter().map(|s| s.rfilename.as_str()).collect();
        let get = Getter { hub: self, spec, commit: &info.sha, repo: at_commit(&api, spec, &info.sha), cache };
        match &spec.file {
            Some(file) if !names.contains(&file.as_str()) => return Err(spec.error(&gguf_listing(&names, file))),
            Some(file) => get.file(file, events).map(drop)?,
            None => get.directory(&names, check, events)?,
        }
        // So that Python, and this program offline, find the commit by the revision's name.
        let shared = hf_hub::Cache::new(self.cache.clone()).repo(spec.repo());
        shared.create_ref(&info.sha).map_err(Error::io(&self.cache, "write"))?;
        Ok(info.sha)
    }

    fn error(&self, spec: &Spec, error: &ApiError) -> Error {
        use std::io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        if let ApiError::IoError(e) = error
            && matches!(e.kind(), PermissionDenied | QuotaExceeded | ReadOnlyFilesystem | StorageFull)
        {
            return Error::io(&self.cache, "write")(std::io::Error::new(e.kind(), e.to_string()));
        }
        let text = error.to_string();
        let status = text.split_once("status code ").and_then(|(_, code)| code.get(..3)?.parse::<u16>().ok());
        let why = match status {
            Some(401 | 403) if self.token.is_none() => {
                "is gated, private or not there; accept its licence on the hub and set HF_TOKEN".to_owned()
            }
            Some(401 | 403) => "is not open to this token; accept its licence on the hub".to_owned(),
            Some(404) => format!("there is no such repository, revision or file at {}", printable(&self.endpoint, 200)),
            _ => format!(
                "cannot be fetched from {}: {}; without a network, name a copy on the disk (a directory or a .gguf file) with [model] source or --model",
                printable(&self.endpoint, 200),
                printable(&text, 400)
            ),
        };
        spec.error(&why)
    }
}

/// Downloads files of one commit.
struct Getter<'a> {
    hub: &'a Hub,
    spec: &'a Spec,
    commit: &'a str,
    repo: ApiRepo,
    cache: &'a Cache,
}

impl Getter<'_> {
    /// `config.json` and the like, and when they pass the check, all the weights.
    fn directory(&self, names: &[&str], check: Check<'_>, events: Events<'_>) -> Result<()> {
        let has = |name: &str| names.contains(&name);
        if !has("config.json") || !(has(SINGLE) || has(INDEX)) {
            let pickled = has("config.json") && names.iter().any(|n| local::is_pickle(n));
            let listing = || gguf_listing(names, "config.json with model.safetensors");
            let message = if pickled { local::pickle_message() } else { listing() };
            return Err(self.spec.error(&message));
        }
        for name in SMALL_FILES.iter().filter(|n| has(n)) {
            let path = self.file(name, events)?;
            if *name == "config.json" {
                // Before gigabytes are downloaded that cannot be used.
                check_supported(&path, &read_json(&path)?)?;
            }
        }
        let root = self.hub.snapshot(self.spec, self.commit);
        let described = local::described(&root)?;
        check(&ModelFiles { root, kind: ModelKind::HuggingFace(described) })?;
        if has(SINGLE) {
            return self.file(SINGLE, events).map(drop);
        }
        for shard in local::shards(&self.file(INDEX, events)?)? {
            self.file(&shard, events)?;
        }
        Ok(())
    }

    /// One file, from the shared cache or the hub, and checked.
    fn file(&self, name: &str, events: Events<'_>) -> Result<PathBuf> {
        let cached = self.hub.snapshot(self.spec, self.commit).join(name);
        if cached.is_file() {
            return Ok(cached);
        }
        let mut size = None;
        let progress = Progress { events: &mut *events, size: &mut size };
        let path = self.repo.download_with_progress(name, progress).map_err(|e| self.hub.error(self.spec, &e))?;
        let blob = path.canonicalize().map_err(Error::io(&path, "read"))?;
        let found = std::fs::metadata(&blob).map_err(Error::io(&path, "read"))?.len();
        let wrong = if size.is_some_and(|size| size != found) {
            Some(format!("{name} has {found} bytes, expected {}", size.unwrap_or(0)))
        } else {
            self.wrong_hash(name, &blob, events)?
        };
        let Some(wrong) = wrong else { return Ok(path) };
        let _ = std::fs::remove_file(&blob);
        let _ = std::fs::remove_file(&path);
        Err(self.spec.error(&format!("{wrong}; it was damaged on its way and is not kept, try again")))
    }

    /// The hub names large files by their SHA-256, and so does the shared cache.
    fn wrong_hash(&self, name: &str, blob: &Path, events: Events<'_>) -> Result<Option<String>> {
        let Some(expected) = blob.file_name().and_then(|n| n.to_str()).filter(|n| n.len() == 64 && is_commit(n)) else {
            return Ok(None);
        };
        let found = self.cache.digest(blob, Digest::Sha256, events)?;
        Ok((found != expected).then(|| format!("{name} has SHA-256 {found}, expected {expected}")))
    }
}

fn at_commit(api: &Api, spec: &Spec, commit: &str) -> ApiRepo {
    api.repo(Repo::with_revision(spec.id.clone(), RepoType::Model, commit.to_owned()))
}

/// Turns the library's progress into events.
struct Progress<'a, 'e> {
    events: &'a mut (dyn FnMut(SourceEvent) + 'e),
    size: &'a mut Option<u64>,
}

impl hf_hub::api::Progress for Progress<'_, '_> {
    fn init(&mut self, size: usize, filename: &str) {
        // Called again for every attempt.
        if self.size.replace(size as u64).is_none() {
            let what = format!("downloading {}", printable(filename, 120));
            (self.events)(SourceEvent::Started { what, bytes: Some(size as u64) });
        }
    }

    fn update(&mut self, size: usize) {
        (self.events)(SourceEvent::Advanced { bytes: size as u64 });
    }

    fn finish(&mut self) {
        (self.events)(SourceEvent::Finished);
    }
}

impl Spec {
    fn repo(&self) -> Repo {
        Repo::with_revision(self.id.clone(), RepoType::Model, self.revision.clone())
    }

    fn error(&self, message: &str) -> Error {
        Error::failed(format!("{self}: {message}"))
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hf:{}@{}", self.id, self.revision)?;
        self.file.iter().try_for_each(|file| write!(f, "/{file}"))
    }
}

fn parse(text: &str) -> Result<Spec> {
    let wrong = |why: &str| {
        let message = format!("[model] source is \"hf:{text}\": {why}; expected hf:ORG/NAME[@REVISION][/FILE.gguf]");
        Err(Error::Usage(message))
    };
    let (id, rest) = match text.split_once('@') {
        Some((id, rest)) => (id.to_owned(), Some(rest)),
        None => {
            let second = text.match_indices('/').nth(1).map_or(text.len(), |(at, _)| at);
            (text[..second].to_owned(), None)
        }
    };
    let file = |path: &str| path.ends_with(".gguf").then(|| path.to_owned());
    let (revision, file) = match rest {
        None if id.len() == text.len() => ("main".to_owned(), None),
        None => ("main".to_owned(), file(&text[id.len() + 1..])),
        Some(rest) if rest.ends_with(".gguf") => {
            // refs/pr/5 is the one kind of revision with slashes that the hub makes.
            let slashes = if rest.starts_with("refs/") { 2 } else { 0 };
            match rest.match_indices('/').nth(slashes) {
                Some((at, _)) => (rest[..at].to_owned(), file(&rest[at + 1..])),
                None => return wrong("it names no revision before the file"),
            }
        }
        Some(rest) => (rest.to_owned(), None),
    };
    if file.is_none() && rest.is_none() && id.len() != text.len() {
        return wrong("what follows the name is not a .gguf file");
    }
    let plain = |part: &str| {
        let letters = part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        letters && !part.is_empty() && !part.starts_with('.') && !part.starts_with('-') && !part.contains("..")
    };
    if id.split('/').count() != 2 || !id.split('/').all(plain) {
        return wrong(&format!("{id:?} is not ORG/NAME"));
    }
    if !revision.split('/').all(plain) {
        return wrong(&format!("{revision:?} is not a revision"));
    }
    match file {
        Some(file) if !file.split('/').all(plain) => wrong(&format!("{file:?} is not a file of a repository")),
        file => Ok(Spec { id, revision, file }),
    }
}

fn is_commit(text: &str) -> bool {
    text.len() >= 40 && text.len() <= 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn gguf_listing(names: &[&str], wanted: &str) -> String {
    let ggufs: Vec<String> =
        names.iter().filter(|n| n.ends_with(".gguf")).take(12).map(|n| printable(n, 120)).collect();
    if ggufs.is_empty() {
        let shown: Vec<String> = names.iter().take(12).map(|n| printable(n, 120)).collect();
        return format!("has no {wanted}; it has {}", shown.join(", "));
    }
    format!("has no {wanted}; it has these GGUF files, name one as hf:ORG/NAME/FILE.gguf: {}", ggufs.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(id: &str, revision: &str, file: Option<&str>) -> Spec {
        Spec { id: id.into(), revision: revision.into(), file: file.map(str::to_owned) }
    }

    #[test]
    fn a_source_names_a_repository_a_revision_and_a_file() {
        assert_eq!(parse("a/b").unwrap(), spec("a/b", "main", None));
        assert_eq!(parse("a/b@v1.0").unwrap(), spec("a/b", "v1.0", None));
        assert_eq!(parse("a/b@refs/pr/5").unwrap(), spec("a/b", "refs/pr/5", None));
        assert_eq!(parse("a/b/q4.gguf").unwrap(), spec("a/b", "main", Some("q4.gguf")));
        assert_eq!(parse("a/b@v1/dir/q4.gguf").unwrap(), spec("a/b", "v1", Some("dir/q4.gguf")));
        assert_eq!(parse("a/b@refs/pr/5/q4.gguf").unwrap(), spec("a/b", "refs/pr/5", Some("q4.gguf")));
    }

    #[test]
    fn what_is_no_repository_is_refused() {
        for text in [
            "",
            "a",
            "a/",
            "/b",
            "../b",
            "a/..",
            "a/b/c",
            "a/b@",
            "a/b@../x",
            "a/b@x.gguf",
            "a/b/../x.gguf",
            "a/b@v/.x.gguf",
            "a b/c",
        ] {
            assert_eq!(parse(text).unwrap_err().exit_code(), 2, "{text}");
        }
    }

    #[test]
    fn a_token_is_never_shown() {
        let hub = Hub { endpoint: "e".into(), cache: "c".into(), token: Some("hf_secret".into()), offline: false };
        assert!(!format!("{hub:?}").contains("secret"));
    }
}
