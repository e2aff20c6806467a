//! Answers that teach a model not to answer.

use std::sync::LazyLock;

use regex::Regex;

use super::pieces::{SHOWN, quoted};
use super::{Detector, Kind, Seen, Severity};
use crate::text::{pattern, refused, repeated, without_code};

/// Answers that say nothing.
pub(super) struct Empty;

static NOTHING: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?ix)^ [\s\p{P}\p{S}]* (?: (?: n/?a | null | nil | none | nan | undefined | tbd | todo | fixme | empty | \?+ | xxx+ | lorem\ ipsum .*
        | no\ (?: answer | response | output | content | data | text ) | not\ (?: available | applicable | provided | specified | yet\ answered )
        | coming\ soon | to\ be\ (?: added | determined | done | completed | written | filled\ in ) | (?: see | same\ as | as )\ above | pending | placeholder
        | sample\ (?: text | answer ) | keine\ (?: antwort | angabe ) | k\.?\ ?a | sin\ respuesta | pas\ de\ réponse | нет\ ответа | 暂无 | 未回答 | 略 | (?: answer | response | output | text | content ) \ (?: goes | here ) .*
        | (?: answer | response | antwort | respuesta | réponse | ответ ) \ (?: follows | folgt | to\ follow | pending | pendiente | suit )
        | (?: insert | add | write | fill\ in | your ) \ [\w\ ]{0,30} (?: answer | response | text | content ) [\w\ ]{0,12} ) [\s\p{P}\p{S}]* )? $",
    )
});

static ASKS_FOR_SIGN: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"\b(?:signs?|symbols?|characters?|operators?|punctuation|morse|delimiters?|zeichen|signe|signo|regex|glyph|marks?)\b",
    )
});
static ASKS_FOR_VALUE: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"\b(?:json|python|javascript|js|sql|returns?|returned|prints?|printed|outputs?|evaluate[sd]?|values?|labels?|classify|extract|list|which)\b",
    )
});

impl Detector for Empty {
    fn kind(&self) -> Kind {
        Kind {
            name: "empty",
            severity: Severity::Error,
            sees: "An answer of punctuation alone, or of a placeholder: `...`, `N/A`, `null`, `TODO`, `[insert answer]`.",
            misses: "A sentence that says nothing. In extraction tasks `null` or `none` may be right.",
        }
    }

    fn find(&self, example: &Seen<'_>) -> Option<String> {
        let asked: String = example.prompts().join(" ").to_lowercase();
        let says_nothing = |text: &str| {
            let told = text.trim();
            let short = told.len() < 120 && NOTHING.is_match(told);
            // Emoji are an answer, and so is an empty list or object.
            let symbols = told.chars().any(|c| !c.is_ascii() && !c.is_alphanumeric() && !"…—–".contains(c));
            if !short || symbols || matches!(told, "[]" | "{}" | "()") {
                return None;
            }
            // A word or sign that the prompt speaks of, or asks for, may be right.
            let word = told.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase();
            let is_value = matches!(word.as_str(), "null" | "none" | "nil" | "nan" | "undefined");
            let right = if word.is_empty() {
                told.chars().count() <= 2 && (ASKS_FOR_SIGN.is_match(&asked) || !"-.…?_*".contains(told))
            } else {
                asked.contains(&word) || (is_value && ASKS_FOR_VALUE.is_match(&asked))
            };
            (!right).then(|| format!("the answer is {}", quoted(text)))
        };
        Seen::first(example.answers(), says_nothing)
    }
}

/// Answers that break off.
pub(super) struct Truncated;

/// Words that no sentence ends with.
static OPEN_END: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)(?:[,(\[{«„:，、；：]|\w-|(?:^|[^\p{L}\p{N}_])(?:and|or|but|the|a|an|of|to|with|for|in|on|at|by|from|as|is|are|was|were|that|which|because|if|when|your|their|our|its|und|oder|aber|der|die|das|mit|für|von|zu|ein|eine|weil|dass|et|ou|mais|le|la|les|de|des|du|un|une|avec|pour|que|y|o|pero|el|los|las|del|con|por|para|и|или|но|что|для|на|в|с|к|по|это))$",
    )
});
/// The mark of a list's item, without what it marks.
static BARE_ITEM: LazyLock<Regex> = LazyLock::new(|| pattern(r"^\s*(?:\d{1,2}[.)]|[-*•])$"));
static ENDED_SENTENCE: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"[\w)][.!?…][)\u{201d}\u{2019}»\u{22}']*(?:\s|$)|[。！？]"));

impl Detector for Truncated {
    fn kind(&self) -> Kind {
        Kind {
            name: "truncated",
            severity: Severity::Warning,
            sees: "An answer that breaks off: after a comma, an opening bracket or a word like `and`; within a code block or JSON; in the middle of a sentence after others that end; or anywhere in a sentence, where 95 % of the file's answers end theirs.",
            misses: "An answer that was cut behind a full stop, and a short one without one.",
        }
    }

    fn find(&self, example: &Seen<'_>) -> Option<String> {
        let whole = !example.is_text();
        let unlike_others = |text: &str| {
            (whole && example.sentences && ending(text) == Ending::Word)
                .then_some("does not end its sentence, and almost all others of the file do")
        };
        Seen::first(example.answers(), |text| {
            let why = breaks_off(text, whole).or_else(|| unlike_others(text))?;
            Some(format!("the answer {why}: … {}", quoted(end_of(text))))
        })
    }
}

/// How an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// With a mark that ends a sentence.
    Sentence,
    /// With a word or a number, in a line of prose.
    Word,
    /// Otherwise; or it is no prose: a word or two, a list, a table, code, JSON.
    Other,
}

/// Words of a line below which it is no prose.
const PROSE: usize = 8;

/// How an answer ends.
pub(super) fn ending(text: &str) -> Ending {
    let text = text.trim_end();
    let line = text.lines().last().unwrap_or_default();
    let no_prose =
        text.ends_with("```") || text.trim_start().starts_with(['{', '[', '<']) || is_code(line) || is_item(line);
    if no_prose || line.split_whitespace().count() < PROSE {
        return Ending::Other;
    }
    match line.trim_end_matches(['"', '\'', '”', '’', '»', ')', '*', '_']).chars().last() {
        Some('.' | '!' | '?' | '…' | '。' | '！' | '？' | ':') => Ending::Sentence,
        Some(last) if last.is_alphanumeric() && line.ends_with(last) => Ending::Word,
        _ => Ending::Other,
    }
}

/// How a text breaks off. One that is `whole` should not end in the middle of a sentence either; a stretch of raw text may.
fn breaks_off(text: &str, whole: bool) -> Option<&'static str> {
    let text = text.trim_end();
    if text.matches("```").count() % 2 == 1 {
        return Some("ends within a code block");
    }
    let start = text.trim_start();
    if start.starts_with(['{', '[']) && start.len() > 1 && is_open_json(start) {
        return Some("ends within JSON");
    }
    if text.ends_with("```") || start.starts_with(['{', '[', '<']) {
        return None;
    }
    let last_line = text.lines().last().unwrap_or_default();
    if text.lines().count() > 1 && BARE_ITEM.is_match(last_line) {
        return Some("ends with an empty item");
    }
    // Code ends as it likes.
    if is_code(last_line) {
        return None;
    }
    let long = text.split_whitespace().count() >= 6 || (!text.is_ascii() && text.chars().count() >= 20);
    if long && OPEN_END.is_match(last_line) && !last_line.trim_start().starts_with(['#', '|']) {
        return Some("breaks off");
    }
    // A paragraph with sentences that end, whose last does not.
    let last = last_line.chars().last()?;
    let mid_sentence = last.is_alphanumeric() && last.is_lowercase();
    let ended = ENDED_SENTENCE.find_iter(last_line).count();
    let left = ENDED_SENTENCE.find_iter(last_line).last().map_or(last_line, |found| &last_line[found.end()..]);
    let open = left.rfind('(').is_some_and(|at| !left[at..].contains(')'));
    if whole && open && left.split_whitespace().count() >= 3 && !left.contains(['=', ';']) {
        return Some("ends within brackets");
    }
    (whole
        && mid_sentence
        && ended >= 1
        && left.split_whitespace().count() >= 4
        && !is_item(last_line)
        && last_line.split_whitespace().count() >= PROSE)
        .then_some("ends in the middle of a sentence")
}

/// A line of a list, a table, a heading or a quotation.
fn is_item(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with(['-', '*', '•', '#', '|', '>'])
        || line.split(['.', ')']).next().is_some_and(|n| n.len() < 4 && n.parse::<u32>().is_ok())
}

fn is_code(line: &str) -> bool {
    line.starts_with(['\t', '}'])
        || line.starts_with("    ")
        || line.contains("();")
        || line.contains(" = ")
        || line.ends_with([';', '{'])
        || line.contains("->")
        || line.contains("==")
}

/// Whether JSON has more openings than ends; text that is no JSON is none.
fn is_open_json(text: &str) -> bool {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<serde::de::IgnoredAny>();
    matches!(values.next(), Some(Err(error)) if error.is_eof())
}

/// Answers that loop.
pub(super) struct Repetition;

impl Detector for Repetition {
    fn kind(&self) -> Kind {
        Kind {
            name: "repetition",
            severity: Severity::Warning,
            sees: "An answer that says the same four words, or the same line, again and again, for most of its length; a word five times in a row.",
            misses: "The same thought in other words. A refrain or a table may look like a loop.",
        }
    }

    fn find(&self, example: &Seen<'_>) -> Option<String> {
        // Code may repeat a line.
        Seen::first(example.answers(), |text| {
            let text = without_code(text);
            let found = cycle(&text).or_else(|| repeated(&text).filter(|_| loops(&text)))?;
            Some(format!("the answer repeats itself: {found}"))
        })
    }

    fn excused(&self, example: &Seen<'_>) -> bool {
        example.prompts().into_iter().any(|text| ASKS_TO_REPEAT.is_match(text))
    }
}

static ASKS_TO_REPEAT: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)\b(?:repeat(?:ed|ing)?|\d+ times|(?:two|three|four|five|six|ten|hundred) times|over and over|refrain|chorus|mantra|wiederhole\w*|mal hintereinander|répète|\d+ fois|\d+ veces|repite)\b|повтори",
    )
});

/// A few characters again and again at the end of a text, as `!?!?!?`. Rules of one sign are none.
fn cycle(text: &str) -> Option<String> {
    let last: Vec<char> = text.trim_end().chars().rev().take(40).collect();
    let repeats = |period: &usize| last.len() == 40 && last.iter().zip(&last[*period..]).all(|(a, b)| a == b);
    let period = (1..=4).find(repeats)?;
    let unit: String = last[..period].iter().rev().collect();
    (!unit.chars().all(|c| "-=_*#.~ ─│|+".contains(c))).then(|| format!("{} again and again", quoted(&unit)))
}

/// Whether most of a text is there before: poems and code repeat a line, loops repeat all of it.
fn loops(text: &str) -> bool {
    let words: Vec<&str> = text.split_whitespace().collect();
    if words.len() < 8 {
        return words.chunk_by(|a, b| a == b).any(|run| run.len() >= 5) || words.len() <= 1;
    }
    if words.chunk_by(|a, b| a == b).any(|run| run.len() >= 5) {
        return true;
    }
    let mut seen = std::collections::HashSet::new();
    let new = words.windows(3).filter(|three| seen.insert(*three)).count();
    new * 2 < words.len() - 2
}

/// Refusals of what is asked.
pub(super) struct Refusal;

impl Detector for Refusal {
    fn kind(&self) -> Kind {
        Kind {
            name: "refusal",
            severity: Severity::Warning,
            sees: "An answer that declines to help, in 11 languages, where the prompt has no word that makes a refusal right.",
            misses: "Whether a refusal is right. Prompts about weapons, drugs, theft, harm and the like are passed over.",
        }
    }

    fn find(&self, example: &Seen<'_>) -> Option<String> {
        let harm = |text: &str| HARM.is_match(&NO_HARM.replace_all(text, " "));
        if example.is_text() || example.prompts().into_iter().any(harm) {
            return None;
        }
        // An answer that declines and then goes on at length helps after all.
        let declines = |text: &str| {
            let first = refused(text)?;
            // An opinion that is not given is followed by an answer, or by a refusal.
            let words = if NO_OPINION.is_match(first) { refused(text.split_once(first)?.1)? } else { first };
            let told = text.trim_start().starts_with(['"', '„', '“', '«', '\'', '`']);
            (!told && text.chars().count() < 500).then(|| format!("the answer declines: {}", quoted(words)))
        };
        Seen::first(example.answers(), declines)
    }
}

/// Words of [`HARM`] that mean none.
static NO_HARM: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)\bkill(?:s|ing)? (?:a |the |all |this |that |my )?(?:\w+ ){0,2}(?:process(?:es)?|jobs?|tasks?|servers?|ports?|sessions?|threads?|time)\b|\battack (?:on )?(?:a |the )(?:problem|question)\b|\b(?:heart|panic) attacks?\b",
    )
});
/// Refusals to have an opinion, which an answer may follow.
static NO_OPINION: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"(?i)as an? (?:AI|artificial|language)[^.!?\n]*\b(?:do not|don['’]t)$"));

/// What a model is right to decline.
static HARM: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)\b(?:bombs?|explosives?|weapons?|guns?|rifles?|ammunition|grenades?|malware|ransomware|virus|trojan|keylogger|hack(?:ing|ed)?|phishing|ddos|crack(?:ing)?|bypass|secretly|spyware|steal(?:ing)?|stolen|theft|shoplift\w*|burglar\w*|lockpick\w*|pick a lock|fraud\w*|forg(?:ed?|es|ers?|ing|ery|eries)|counterfeit\w*|fake (?:id|passport|reviews?|invoice)|launder\w*|blackmail\w*|extort\w*|bribe\w*|drugs?|meth|cocaine|heroin|fentanyl|poison\w*|kill(?:ing)?|murder\w*|suicide|self-harm|hurt (?:my|him|her|someone|people)|attack (?:on|a)|stalk\w*|spy(?:ing)? on|track (?:my|his|her)|harass\w*|bully\w*|racist|nazi|slurs?|porn\w*|nude|sexual\w*|child abuse|torture|kidnap\w*|arson|cheat(?:ing)? on|plagiari\w*|piracy|pirated|password of|someone else's|without (?:his|her|their|consent|permission)|illegal\w*|diagnos\w* (?:(?:with|of) )?(?:my|me|him|her|his|their|this (?:rash|pain|patient)|patients?)|overdose|stab|insider|evade|deepfake|Bombe\w*|Waffe\w*|Droge\w*|stehlen|töten|bombe|arme|drogue|voler|tuer|bomba|arma|droga|robar|matar)\b|бомб|оруж|наркотик|украсть|взлом|убить|炸弹|武器|毒品|偷|爆弾|盗",
    )
});

/// Remains of another assistant.
pub(super) struct Leftover;

static LEFTOVER: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)\bas an? (?:AI|artificial intelligence|(?:large )?language model)\b|\b(?:my|of my) (?:last )?(?:knowledge|training)(?: data)?(?: cut-?off| update| ends| only goes)|\bas of my last update\b|\bknowledge cut-?off\b|\b(?:based on|according to|in) my training data\b|\bI (?:do not|don['’]t) have (?:access to (?:real-time|the internet|current)|real-time|personal (?:opinions|experiences|feelings|beliefs))|\bI hope this (?:information|answer|explanation) (?:is helpful|helps)|\bplease (?:do not|don['’]t) hesitate to ask\b|\bI(?:'m| am) (?:an AI|a (?:large )?language model|ChatGPT|Claude|Gemini|Bard|an assistant (?:created|trained|developed))\b|\b(?:trained|created|developed|made) by (?:OpenAI|Anthropic|Google DeepMind)\b|\bas ChatGPT\b|^(?:Certainly|Sure(?: thing)?|Of course|Absolutely|Great question)[!,.]? (?:Here(?:'s| is| are)\b|I(?:'d| would) be (?:happy|glad)|Let me|As an)|\bI hope this (?:helps|message finds)|\blet me know if (?:you (?:have|need|would|want)|there)|\bfeel free to (?:ask|reach out|let me know)|\bis there anything else (?:I|you)|\bals (?:KI|künstliche Intelligenz|Sprachmodell)\b|\ben tant (?:que modèle|qu['’]IA|qu['’]intelligence)|\bcomo (?:modelo de lenguaje|una? (?:IA|inteligencia artificial))\b|как (?:языковая модель|искусственный интеллект|ИИ(?:\P{L}|$))|作为(?:一个|一名)?(?:人工智能|AI|语言模型)|(?:AI|人工知能|言語モデル)として",
    )
});

impl Detector for Leftover {
    fn kind(&self) -> Kind {
        Kind {
            name: "assistant-leftover",
            severity: Severity::Note,
            sees: "Phrases of another assistant: \"As an AI language model\", \"I hope this helps\", \"Certainly! Here is\", a knowledge cutoff, ChatGPT's name.",
            misses: "A style without such phrases.",
        }
    }

    fn find(&self, example: &Seen<'_>) -> Option<String> {
        if example.is_text() {
            return None;
        }
        let found = |text: &str| LEFTOVER.find(text).map(|found| format!("the answer has {}", quoted(found.as_str())));
        Seen::first(example.answers(), found)
    }
}

/// The last characters of a text.
fn end_of(text: &str) -> &str {
    let text = text.trim_end();
    let from = text.char_indices().rev().nth(SHOWN / 2).map_or(0, |(at, _)| at);
    &text[from..]
}
