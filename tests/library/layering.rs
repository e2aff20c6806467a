//! Which room may use which: the table of CONTRIBUTING.md, and the inner order of the two wings, read against every path in `src`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// From the bottom up: a room may use only modules of rows below it, and those of its own row where these may know each other.
const ROWS: [(&[&str], bool); 12] = [
    (&["error", "random", "shown"], false),
    (&["files"], false),
    (&["record"], false),
    (&["compare", "config", "data", "text"], true),
    (&["diagnosis", "gate", "scenario", "snapshot"], false),
    (&["report"], false),
    (&["model"], false),
    (&["plan"], false),
    (&["train", "export", "inspect"], false),
    (&["backend"], false),
    (&["run"], false),
    (&["project", "scaffold"], false),
];

/// Above all rows; they may know each other.
const FACES: [&str; 5] = ["cli", "harness", "bench", "lib", "main"];

/// A wing's modules from the bottom up: each may use those before it.
const WINGS: [(&str, &[&str]); 2] = [
    ("model", &["formats", "architecture", "sources", "tokenizer", "ops", "decoder", "lora", "open"]),
    ("backend", &["engine", "encode", "scripted", "second", "candle", "llama_cpp", "remote"]),
];

/// Modules that a person may read without knowing what a tensor is.
const PURE: [&str; 10] =
    ["compare", "config", "data", "diagnosis", "gate", "record", "report", "scenario", "snapshot", "text"];

/// Files with unsafe code, or with what may be called by unsafe code alone.
const UNSAFE: [&str; 7] = [
    "backend/llama_cpp/worker/raw/hook.rs",
    "backend/llama_cpp/worker/raw/mod.rs",
    "backend/llama_cpp/worker/raw/tensor.rs",
    "model/formats/mapped.rs",
    "model/ops/bf16/units.rs",
    "model/ops/gemm.rs",
    "model/ops/matrix/vectors.rs",
];

/// `src` as the compiler sees it: modules by their path (`["model", "ops"]`), and what each names.
struct Crate {
    files: BTreeMap<Vec<String>, String>,
    texts: BTreeMap<String, String>,
}

impl Crate {
    fn read() -> Self {
        let mut found = Self { files: BTreeMap::new(), texts: BTreeMap::new() };
        let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        for path in sources(&src) {
            let name = path.strip_prefix(&src).expect("below src").to_string_lossy().replace('\\', "/");
            found.files.insert(module_of(&name), name.clone());
            found.texts.insert(name, std::fs::read_to_string(&path).expect("a readable file"));
        }
        found
    }

    /// The files that each file uses, and those of its own children not counted: a module names them to pass on what they hold.
    /// Modules that are compiled for tests alone use what they like.
    fn uses(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let mut all = BTreeMap::new();
        for (module, name) in &self.files {
            if is_test(name) {
                continue;
            }
            let code = code_of(&self.texts[name]);
            let mut used = BTreeSet::new();
            for path in paths(&code) {
                let Some(path) = absolute(module, &path) else { continue };
                let Some(to) = (0..=path.len()).rev().find_map(|end| self.files.get_key_value(&path[..end])) else {
                    continue;
                };
                if !to.0.is_empty() && !to.0.starts_with(module) {
                    used.insert(to.1.as_str());
                }
            }
            all.insert(name.as_str(), used);
        }
        all
    }
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).expect("a directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found
}

fn module_of(name: &str) -> Vec<String> {
    let mut parts: Vec<String> = name.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if parts.last().is_some_and(|last| last == "mod") || parts == ["lib"] {
        parts.pop();
    }
    parts
}

fn is_test(name: &str) -> bool {
    ["parity.rs", "tests.rs", "fixture.rs"].iter().any(|test| name.rsplit('/').next() == Some(*test))
}

/// A file without its comments, its texts in quotes and its tests.
fn code_of(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = text.lines().map(|line| {
        let line = line.split_once("//").map_or(line, |(code, _)| code);
        // What stands between quotes is no path.
        line.split('"').step_by(2).collect::<Vec<_>>().join("\"\"")
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Every path of a file's code: of `use`, with nested braces written out, and within expressions.
fn paths(code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(at) = ["crate", "super", "self"].iter().filter_map(|root| path_start(rest, root)).min() {
        let (path, after) = tree_at(&rest[at..]);
        found.extend(path);
        rest = &rest[at + after.max(1)..];
    }
    found
}

/// Where a path begins with `root`.
fn path_start(code: &str, root: &str) -> Option<usize> {
    let of_word = |c: char| c.is_alphanumeric() || c == '_' || c == '$' || c == ':';
    code.match_indices(&format!("{root}::")).find(|(at, _)| !code[..*at].ends_with(of_word)).map(|(at, _)| at)
}

/// The paths of a tree such as `crate::{a::B, c::{self, D}}`, and its length.
fn tree_at(code: &str) -> (Vec<Vec<String>>, usize) {
    let mut path: Vec<String> = Vec::new();
    let mut at = 0;
    loop {
        let word: String = code[at..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        at += word.len();
        if !word.is_empty() {
            path.push(word);
        }
        if !code[at..].starts_with("::") {
            return (vec![path], at);
        }
        at += 2;
        if !code[at..].starts_with('{') {
            continue;
        }
        at += 1;
        let mut all = Vec::new();
        while !code[at..].starts_with('}') && at < code.len() {
            let skipped =
                code[at..].chars().take_while(|c| c.is_whitespace() || *c == ',').map(char::len_utf8).sum::<usize>();
            at += skipped;
            if code[at..].starts_with('}') {
                break;
            }
            let (inner, length) = tree_at(&code[at..]);
            all.extend(inner.into_iter().map(|inner| [path.clone(), inner].concat()));
            at += length;
            // `as NAME`, or a `*`.
            at += code[at..].find([',', '}']).unwrap_or(code.len() - at);
        }
        return (all, at + 1);
    }
}

/// A path from the root of the crate, as a module names it.
fn absolute(module: &[String], path: &[String]) -> Option<Vec<String>> {
    let mut base = module.to_vec();
    let mut path = path;
    if path.first()? == "crate" {
        return Some(path[1..].to_vec());
    }
    while let Some(first) = path.first().filter(|part| ["super", "self"].contains(&part.as_str())) {
        if first == "super" {
            base.pop()?;
        }
        path = &path[1..];
    }
    Some([base, path.to_vec()].concat())
}

fn room(name: &str) -> &str {
    name.split('/').next().unwrap_or(name).trim_end_matches(".rs")
}

/// The room of a wing that a file lies in; `None` for the wing's own `mod.rs`.
fn inner(name: &str) -> Option<&str> {
    Some(name.split('/').nth(1)?.trim_end_matches(".rs")).filter(|inner| *inner != "mod")
}

#[test]
fn every_room_uses_only_rooms_below_it() {
    let row = |room: &str| ROWS.iter().position(|(rooms, _)| rooms.contains(&room));
    let mut wrong = Vec::new();
    for (from, used) in Crate::read().uses() {
        let Some(from_row) = row(room(from)) else {
            assert!(FACES.contains(&room(from)) || room(from) == "bin", "{from} is in no row of the table");
            continue;
        };
        for to in used.into_iter().filter(|to| room(to) != room(from)) {
            let is_below = row(room(to)).is_some_and(|to| to < from_row || (to == from_row && ROWS[from_row].1));
            if !is_below {
                wrong.push(format!("{from} uses {to}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_rooms_of_a_wing_use_those_before_them() {
    let found = Crate::read();
    let mut wrong = Vec::new();
    for (wing, rooms) in WINGS {
        let place = |name: &str| inner(name).and_then(|inner| rooms.iter().position(|room| *room == inner));
        for (from, used) in found.uses().into_iter().filter(|(from, _)| room(from) == wing) {
            let Some(from_place) = place(from) else {
                assert!(inner(from).is_none(), "{from} is in no room of the wing");
                continue;
            };
            for to in used.into_iter().filter(|to| room(to) == wing) {
                // A backend's modules implement the trait of its `mod.rs`; what the model's `mod.rs` passes on hides where it is from.
                let is_before = place(to).map_or(wing == "backend", |to| to <= from_place);
                if !is_before {
                    wrong.push(format!("{from} uses {to}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Files that use each other can be read, and changed, only together.
#[test]
fn no_files_use_each_other_in_a_circle() {
    let found = Crate::read();
    let uses = found.uses();
    // What uses nothing that is left is taken away; what stays is in a circle, or above one.
    let mut left: BTreeSet<&str> = uses.keys().copied().collect();
    loop {
        let free: Vec<&str> = left.iter().copied().filter(|file| uses[file].is_disjoint(&left)).collect();
        if free.is_empty() {
            break;
        }
        free.iter().for_each(|file| {
            left.remove(file);
        });
    }
    // And so with what nothing left uses.
    while let Some(top) = left.iter().copied().find(|file| !left.iter().any(|other| uses[other].contains(file))) {
        left.remove(top);
    }
    assert!(left.is_empty(), "in a circle: {left:?}");
}

#[test]
fn paths_are_found_in_every_form() {
    let code = code_of(
        "use crate::{error::exit, model::{self, ops::{self as numbers, dot}}}; // crate::no\nfn f() { super::g(\"crate::no\"); $crate::no(); self::h::<crate::record::Arm>() }",
    );
    let found: BTreeSet<String> = paths(&code).into_iter().map(|path| path.join("::")).collect();
    let expected = [
        "crate::error::exit",
        "crate::model::ops::dot",
        "crate::model::ops::self",
        "crate::model::self",
        "crate::record::Arm",
        "self::h",
        "super::g",
    ];
    assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), expected);
}

#[test]
fn pure_rooms_know_no_tensors() {
    for (name, text) in Crate::read().texts {
        assert!(!PURE.contains(&room(&name)) || !text.contains("candle_core"), "{name}");
    }
}

#[test]
fn only_insta_s_room_uses_insta() {
    for (name, text) in Crate::read().texts {
        let uses = text.contains("insta::") && !text.contains("//! finetest");
        // A report's own tests hold it whole.
        assert!(!uses || is_test(&name) || ["snapshot", "lib"].contains(&room(&name)), "{name}");
    }
}

/// Is there unsafe code, or what may be called by unsafe code alone, outside comments?
fn has_unsafe(text: &str) -> bool {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let forms = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "unsafe trait", "unsafe("];
    code.into_iter().any(|line| forms.iter().any(|form| line.contains(form)))
}

#[test]
fn every_form_of_unsafe_is_found() {
    for code in
        ["unsafe { f() }", "pub(super) unsafe fn f()", "unsafe impl Send for X {}", "unsafe extern \"C\" fn f()"]
    {
        assert!(has_unsafe(code), "{code}");
    }
    assert!(!has_unsafe("// SAFETY: an unsafe fn\n#![deny(unsafe_code)]"));
}

#[test]
fn unsafe_is_where_it_is_known_to_be() {
    let found = Crate::read().texts.into_iter().filter(|(_, text)| has_unsafe(text)).map(|(name, _)| name);
    assert_eq!(found.collect::<Vec<_>>(), UNSAFE);
}

/// The table that people read says what this test holds.
#[test]
fn contributing_has_the_same_rows() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("CONTRIBUTING.md");
    let contributing = std::fs::read_to_string(page).expect("CONTRIBUTING.md");
    let after = contributing.split("What may use what").nth(1).expect("the table");
    let table = after.split("```").nth(1).expect("the table").trim();
    let words = |line: &str| line.split('·').map(|room| room.trim().to_owned()).collect::<BTreeSet<String>>();
    let shown: Vec<BTreeSet<String>> = table.lines().map(words).collect();
    let faces = BTreeSet::from(["bench", "cli", "harness"].map(str::to_owned));
    let rows = ROWS.iter().map(|(rooms, _)| rooms.iter().map(|room| (*room).to_owned()).collect());
    let expected: Vec<BTreeSet<String>> = rows.chain([faces]).rev().collect();
    assert_eq!(shown, expected);
}
