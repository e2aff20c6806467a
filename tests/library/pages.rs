//! The pages that people read, README.md and the book in docs/: their code blocks, links and headings.
#![allow(dead_code, reason = "each test program uses its own part")]

use std::path::{Path, PathBuf};

/// A Markdown page.
pub(crate) struct Page {
    /// From the root of the repository, with `/`.
    pub(crate) name: String,
    pub(crate) text: String,
}

/// A fenced block of a page.
pub(crate) struct Block {
    /// What stands behind the fence: `toml`, `rust,ignore`.
    pub(crate) language: String,
    pub(crate) body: String,
    /// The line of its fence.
    pub(crate) line: usize,
}

impl Block {
    /// The file that its first line names: `# finetest.toml`, `// tests/scenarios.rs`.
    pub(crate) fn file(&self) -> Option<&str> {
        let first = self.body.lines().next()?;
        let name = first.strip_prefix("# ").or_else(|| first.strip_prefix("// "))?;
        let is_file = !name.contains(' ') && Path::new(name).extension().is_some();
        is_file.then_some(name)
    }
}

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

impl Page {
    pub(crate) fn read(name: &str) -> Self {
        let text = std::fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        Self { name: name.to_owned(), text: text.replace("\r\n", "\n") }
    }

    /// README.md, CONTRIBUTING.md, and all of docs/.
    pub(crate) fn all() -> Vec<Self> {
        let mut names = vec!["README.md".to_owned(), "CONTRIBUTING.md".to_owned()];
        names.extend(Self::book());
        names.iter().map(|name| Self::read(name)).collect()
    }

    /// The names of the pages in docs/.
    pub(crate) fn book() -> Vec<String> {
        let mut found = Vec::new();
        let mut left = vec![root().join("docs")];
        while let Some(directory) = left.pop() {
            for entry in std::fs::read_dir(directory).expect("a directory").flatten() {
                let path = entry.path();
                if path.is_dir() {
                    left.push(path);
                } else if path.extension().is_some_and(|e| e == "md") {
                    let name = path.strip_prefix(root()).expect("below the root").to_string_lossy().replace('\\', "/");
                    found.push(name);
                }
            }
        }
        found.sort();
        found
    }

    /// Its lines, each with its number and whether it is part of a fenced block.
    fn lines(&self) -> impl Iterator<Item = (usize, &str, bool)> {
        let mut fence: Option<&str> = None;
        self.text.lines().enumerate().map(move |(i, line)| {
            let trimmed = line.trim();
            let marks = &trimmed[..trimmed.len() - trimmed.trim_start_matches('`').len()];
            let mut inside = fence.is_some();
            match fence {
                Some(open) if marks.len() >= open.len() && trimmed == marks => fence = None,
                None if marks.len() >= 3 => (fence, inside) = (Some(marks), true),
                _ => {}
            }
            (i + 1, line, inside)
        })
    }

    pub(crate) fn blocks(&self) -> Vec<Block> {
        let mut found: Vec<Block> = Vec::new();
        let mut open = false;
        for (line, text, inside) in self.lines().filter(|(_, _, inside)| *inside) {
            let is_fence = inside && text.trim().starts_with("```");
            match (is_fence, open) {
                (true, false) => {
                    let language = text.trim().trim_start_matches('`').to_owned();
                    found.push(Block { language, body: String::new(), line });
                    open = true;
                }
                (true, true) => open = false,
                (false, _) => {
                    let body = &mut found.last_mut().expect("a block that is open").body;
                    body.push_str(text);
                    body.push('\n');
                }
            }
        }
        assert!(!open, "{}: a block has no end", self.name);
        found
    }

    /// The one block that names this file.
    pub(crate) fn block_of(&self, file: &str) -> Block {
        let mut found = self.blocks().into_iter().filter(|block| block.file() == Some(file));
        let block = found.next().unwrap_or_else(|| panic!("{} has no block of {file}", self.name));
        assert!(found.next().is_none(), "{} has two blocks of {file}", self.name);
        block
    }

    /// The one block in this language that holds all of `signs`.
    pub(crate) fn block_with(&self, language: &str, signs: &[&str]) -> Block {
        let holds = |block: &Block| block.language == language && signs.iter().all(|sign| block.body.contains(sign));
        let mut found = self.blocks().into_iter().filter(holds);
        let block = found.next().unwrap_or_else(|| panic!("{} has no block with {signs:?}", self.name));
        assert!(found.next().is_none(), "{} has two blocks with {signs:?}", self.name);
        block
    }

    /// Its prose without blocks and without what stands between backquotes, which may span the lines of a paragraph.
    fn prose(&self) -> String {
        let mut paragraphs = vec![String::new()];
        for (_, line, inside) in self.lines() {
            let line = if inside { "" } else { line };
            if line.trim().is_empty() {
                paragraphs.push(String::new());
            }
            let last = paragraphs.last_mut().expect("a paragraph");
            last.push_str(line);
            last.push('\n');
        }
        let without_code = |text: &String| {
            let parts = text.split('`').enumerate();
            parts
                .map(|(i, part)| if i % 2 == 0 { part.into() } else { "\n".repeat(part.matches('\n').count()) })
                .collect()
        };
        paragraphs.iter().map(without_code).collect::<Vec<String>>().concat()
    }

    /// What its links lead to, with their lines.
    pub(crate) fn links(&self) -> Vec<(usize, String)> {
        let prose = self.prose();
        let mut found = Vec::new();
        for (at, _) in prose.match_indices("](") {
            let line = 1 + prose[..at].matches('\n').count();
            let (target, _) = prose[at + 2..].split_once(')').unwrap_or_else(|| panic!("{}:{line}", self.name));
            found.push((line, target.to_owned()));
        }
        found
    }

    /// The anchors of its headings, as GitHub and mdBook make them.
    pub(crate) fn anchors(&self) -> Vec<String> {
        let headings = self.lines().filter(|(_, line, inside)| !inside && line.starts_with('#'));
        let anchor = |line: &str| {
            let text = line.trim_start_matches('#').trim().to_lowercase();
            let kept = text.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        };
        headings.map(|(_, line, _)| anchor(line)).collect()
    }

    /// A path beside this page, from the root of the repository; `None` if it leads out of it.
    pub(crate) fn beside(&self, path: &str) -> Option<PathBuf> {
        let mut found = PathBuf::from(&self.name);
        found.pop();
        for part in path.split('/') {
            match part {
                "" | "." => {}
                ".." => found.pop().then_some(())?,
                _ => found.push(part),
            }
        }
        Some(found)
    }
}
