//! Under which licence a model is published, as its files say, and what well-known licences ask for.

use std::path::Path;

use crate::error::Result;
use crate::files::read_regular_text;

/// Bytes of a model card that are read.
const MOST_BYTES: u64 = 1 << 20;

/// A licence and where it is named.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct License {
    /// As the file calls it: `apache-2.0`, `llama3.1`.
    pub name: String,
    /// `README.md`, `LICENSE` or `general.license`.
    pub from: &'static str,
}

/// What a licence asks for: parts of its name, and a sentence.
const ASKS: [(&[&str], &str); 8] = [
    (
        &["llama2", "llama-2", "llama 2"],
        "Llama 2's licence: what the model writes may not be used to improve other language models; above 700 million monthly users a licence of its own is needed; the acceptable use policy goes along.",
    ),
    (
        &["llama3", "llama-3", "llama 3", "llama4", "llama-4", "llama 4", "llama community"],
        "Llama's licence: a model that is made with it, or trained on what it writes, has a name that begins with `Llama`; products show `Built with Llama`; above 700 million monthly users a licence of its own is needed; the acceptable use policy goes along.",
    ),
    (
        &["gemma"],
        "Gemma's terms: whoever passes on a tuned model or an adapter passes on the restrictions on use with it, and names them.",
    ),
    (
        &["qwen-research", "qwen research"],
        "Qwen's research licence: no commercial use. Qwen2.5 3B is published under it; most other sizes are under Apache 2.0.",
    ),
    (
        &["tongyi", "qianwen", "qwen license", "qwen-license"],
        "Qwen's own licence: above 100 million monthly users a licence of its own is needed.",
    ),
    (
        &["deepseek"],
        "DeepSeek's model licence: commercial use is allowed, and its list of forbidden uses goes along with tuned models.",
    ),
    (&["-nc", "noncommercial", "non-commercial", "mrl", "research"], "It allows no commercial use."),
    (&["bigscience", "openrail", "rail"], "Its list of forbidden uses goes along with tuned models and adapters."),
];

impl License {
    /// What it asks of who tunes the model; `None` of one that asks for little, or that is not known here.
    pub(super) fn asks(&self) -> Option<&'static str> {
        let name = self.name.to_lowercase();
        ASKS.iter().find(|(parts, _)| parts.iter().any(|part| name.contains(part))).map(|(_, asks)| *asks)
    }

    /// That of a directory: the card's front matter, else the first line of its licence.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub(super) fn of_directory(directory: &Path) -> Result<Option<Self>> {
        let read = |name: &str| -> Result<Option<String>> {
            let path = directory.join(name);
            if path.is_file() { read_regular_text(&path, MOST_BYTES).map(Some) } else { Ok(None) }
        };
        if let Some(name) = read("README.md")?.as_deref().and_then(front_matter) {
            return Ok(Some(Self { name, from: "README.md" }));
        }
        for file in ["LICENSE", "LICENSE.txt", "LICENSE.md"] {
            let text = read(file)?;
            let first = text.as_deref().and_then(|text| text.lines().map(str::trim).find(|line| !line.is_empty()));
            if let Some(first) = first {
                let name = first.trim_start_matches('#').trim().chars().take(80).collect();
                return Ok(Some(Self { name, from: "LICENSE" }));
            }
        }
        Ok(None)
    }
}

/// `license` of a card's YAML front matter; `license_name` where that says `other`.
fn front_matter(card: &str) -> Option<String> {
    let inside = card.trim_start_matches('\u{feff}').strip_prefix("---")?.split("\n---").next()?;
    let value = |key: &str| {
        let line = inside.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        let value: String = line.trim().trim_matches(['"', '\'']).chars().take(80).collect();
        (!value.is_empty()).then_some(value)
    };
    let license = value("license")?;
    if license == "other" { value("license_name").or(Some(license)) } else { Some(license) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_says_its_licence() {
        let card = "---\nlanguage:\n- en\nlicense: other\nlicense_name: qwen-research\n---\n# Qwen\nlicense: mit\n";
        assert_eq!(front_matter(card).as_deref(), Some("qwen-research"));
        assert_eq!(front_matter("---\nlicense: \"llama3.1\"\n---\n").as_deref(), Some("llama3.1"));
        assert_eq!(front_matter("# A model\nlicense: mit\n"), None);
    }

    #[test]
    fn what_a_licence_asks_for_is_told_of_those_that_ask() {
        let asks = |name: &str| License { name: name.into(), from: "README.md" }.asks().unwrap_or_default();
        assert!(asks("llama3.2").contains("Built with Llama"));
        assert!(asks("LLAMA 3.1 COMMUNITY LICENSE AGREEMENT").contains("Built with Llama"));
        assert!(asks("Gemma").contains("Gemma's terms"));
        assert!(asks("cc-by-nc-4.0").contains("no commercial"));
        assert_eq!(asks("apache-2.0"), "");
        assert_eq!(asks("mit"), "");
    }
}
