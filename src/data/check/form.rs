//! Examples whose form is not what a model will meet.

use std::sync::LazyLock;

use regex::Regex;

use super::pieces::quoted;
use super::{Detector, Kind, Longest, Seen, Severity};
use crate::data::limits::quarter_tokens;
use crate::text::{leaked, pattern, without_code};

/// Roles that are wrong, or mixed.
pub(super) struct Roles;

/// A transcript in one message.
static SPEAKERS: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?m)^\s*(?:\*\*)?(?P<who>Human|User|Customer|Assistant|AI|Bot|ChatGPT|Agent|Nutzer|Assistent|Utilisateur|Usuario|Asistente)(?:\*\*)?\s?:",
    )
});

impl Detector for Roles {
    fn kind(&self) -> Kind {
        Kind {
            name: "roles",
            severity: Severity::Warning,
            sees: "A chat that begins with the assistant or ends with the user; two turns of one role in a row; a system message that is not the first; an answer with lines of `User:` and `Assistant:`.",
            misses: "Roles that were swapped throughout.",
        }
    }

    fn find(&self, example: &Seen<'_>) -> Option<String> {
        let messages = example.messages();
        let of_chat = || {
            let roles: Vec<&str> = messages.iter().map(|message| message.role.as_str()).collect();
            let turns: Vec<&str> = roles.iter().copied().filter(|role| *role != "system").collect();
            if let Some(at) = roles.iter().skip(1).position(|role| *role == "system") {
                return Some(format!("message {} is the system's, and not the first", at + 1));
            }
            if turns.first() == Some(&"assistant") {
                return Some("the assistant speaks first".to_owned());
            }
            // Several tools may answer one turn.
            if let Some(pair) = turns.windows(2).find(|pair| pair[0] == pair[1] && pair[0] != "tool") {
                return Some(format!("two turns of the {} in a row", pair[0]));
            }
            (turns.last() == Some(&"user")).then(|| "the last turn is the user's, and has no answer".to_owned())
        };
        let in_text = |text: &str| {
            let mut speakers: Vec<&str> =
                SPEAKERS.captures_iter(text).map(|found| found.name("who").map_or("", |m| m.as_str())).collect();
            speakers.dedup();
            let answers = |who: &&str| {
                matches!(*who, "Assistant" | "AI" | "Bot" | "ChatGPT" | "Agent" | "Assistent" | "Asistente")
            };
            let asks = speakers.iter().any(|who| !answers(who));
            // A prompt may quote a conversation; an answer that goes on with one has learnt to speak for both.
            (speakers.len() >= 2 && asks && speakers.iter().any(answers))
                .then(|| format!("one message has the lines of both {}: and {}:", speakers[0], speakers[1]))
        };
        // A prompt may hold a conversation to speak of, but does not begin with one.
        let begins = |text: &&str| SPEAKERS.find(text).is_some_and(|found| text[..found.start()].trim().is_empty());
        let asked: Vec<&str> = example.prompts().into_iter().filter(begins).collect();
        let answers = if example.is_text() { Vec::new() } else { example.answers() };
        of_chat().or_else(|| Seen::first(answers.into_iter().chain(asked).collect(), in_text))
    }
}

/// Tags of a chat template within what is said.
pub(super) struct TemplateTags;

impl Detector for TemplateTags {
    fn kind(&self) -> Kind {
        Kind {
            name: "template-tags",
            severity: Severity::Error,
            sees: "Tags of chat templates inside a message: `<|im_start|>`, `[INST]`, `<<SYS>>`, `</s>`, `### Response:`. The template would add its own around them.",
            misses: "Tags of templates that it does not know. Raw `text` may have tags on purpose, and is passed over.",
        }
    }

    fn find(&self, example: &Seen<'_>) -> Option<String> {
        if example.is_text() {
            return None;
        }
        // Code in quotes may explain a tag.
        Seen::first(example.texts(), |text| leaked(&without_code(text)))
    }
}

/// Text that was read in another encoding than it was written in.
pub(super) struct Mojibake;

static WRONG_ENCODING: LazyLock<Regex> = LazyLock::new(|| {
    let pairs = [
        // UTF-8 of Latin letters, read as Latin-1 or CP1252: a lead of two bytes and what follows it.
        r"[ÃÅÄ][\u{80}-\u{BF}ƒ„†‡ˆ‰Š‹Œ‘’“”•–—˜™š›œžŸ€]",
        r"Â[\u{A0}-\u{BF}]",
        // Quotes and dashes of three bytes.
        r"â€[\u{80}-\u{BF}™œ˜“”¦¢\u{9d}]?|â‚¬|â„¢|ï»¿|ï¿½",
        // Cyrillic and Greek, two pairs at least.
        r"(?:[ÐÑ][\u{80}-\u{BF}ƒ„†‡ˆ‰Š‹Œ‘’“”•–—˜™š›œžŸ€]\s?){2,}",
        r"(?:[ÎÏ][\u{80}-\u{BF}ƒ„†‡ˆ‰Š‹Œ‘’“”•–—˜™š›œžŸ€]\s?){2,}",
        // Chinese, Japanese and Korean, two letters at least.
        r"(?:[ãäåæçèéêëìí][\u{80}-\u{BF}ƒ„†‡ˆ‰Š‹Œ‘’“”•–—˜™š›œžŸ€‚…]{2}){2,}",
        // Cyrillic read as CP1251.
        r"(?:[РС][\u{80}-\u{BF}Ѐ-Џ‚ѓ„…†‡€‰‹‘’“”•–—™›°±²³µ¶·»ґ«¬®]){2,}",
        r"\u{FFFD}",
        r"[\u{0}-\u{8}\u{b}\u{c}\u{e}-\u{1f}\u{7f}-\u{9f}]",
    ];
    pattern(&pairs.join("|"))
});

impl Detector for Mojibake {
    fn kind(&self) -> Kind {
        Kind {
            name: "mojibake",
            severity: Severity::Error,
            sees: "UTF-8 that was read as Latin-1, CP1252 or CP1251 (`cafÃ©`, `donâ€™t`), the replacement character U+FFFD, and control characters.",
            misses: "Letters that were lost without a trace: `?` where an accent was.",
        }
    }

    fn find(&self, example: &Seen<'_>) -> Option<String> {
        let found = |text: &str| {
            if text.is_ascii() && !text.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
                return None;
            }
            let found = WRONG_ENCODING.find(text)?;
            let from = text[..found.start()].char_indices().rev().nth(10).map_or(0, |(at, _)| at);
            Some(format!("wrong encoding near {}", quoted(&text[from..])))
        };
        Seen::first(example.texts(), found)
    }

    /// Who asks about encodings shows what went wrong.
    fn excused(&self, example: &Seen<'_>) -> bool {
        example.texts().into_iter().any(|text| ABOUT_ENCODINGS.is_match(text))
    }
}

static ABOUT_ENCODINGS: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)\b(?:encoding|utf-?(?:8|16)|unicode|latin-?1|windows-1252|cp1252|charset|mojibake|garbled|iso-8859|kodierung|zeichensatz|codepage|codificación|encodage)\b|кодировк|文字化け|乱码|编码",
    )
});

/// Examples longer than what is learnt.
pub(super) struct TooLong;

impl Detector for TooLong {
    fn kind(&self) -> Kind {
        Kind {
            name: "too-long",
            severity: Severity::Warning,
            sees: "With `--sequence-len`, or that of the manifest: an example that is longer. In a project whose base model is on this machine its tokenizer and its template count; else a token is about four characters of Latin script and one of others.",
            misses: "Without the model, the exact number of tokens.",
        }
    }

    fn find(&self, example: &Seen<'_>) -> Option<String> {
        let Longest { tokens: most, count } = example.longest?;
        let counted = count.and_then(|count| (count.0)(example.turns));
        let (all, about) = counted.map_or_else(
            || (example.texts().into_iter().map(quarter_tokens).sum::<usize>() / 4, "about "),
            |tokens| (tokens, ""),
        );
        (all > most)
            .then(|| format!("has {about}{all} tokens, and {most} are learnt; shorten it, or raise sequence_len"))
    }
}
