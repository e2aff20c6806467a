//! How well a tokenizer covers a data file: tokens per character by script and example, against what the same tokenizer needs for plain
//! text of that script, and the characters that fall back to bytes (R4 of the method: check this before weeks of training).
//!
//! The norm is measured on one short text that says the same in each script. Its tokens over those of the English one are the script's
//! premium (Petrov et al. 2023, arXiv 2305.15425).

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rayon::prelude::*;
use serde::Serialize;
use unicode_script::{Script, UnicodeScript};

use crate::config::DataFormat;
use crate::data::stats::Lengths;
use crate::data::{OnRead, Turns, each_batch};
use crate::error::{Error, Result};
use crate::model::Tokenizer;
use crate::record::Message;

/// The same in each script, written for this page.
const PLAIN: [(Script, &str); 10] = [
    (
        Script::Latin,
        "The library opens at nine in the morning. Bring your card, and return the books before the end of the month. If you lose one, please tell us at once.",
    ),
    (
        Script::Cyrillic,
        "Библиотека открывается в девять часов утра. Возьмите с собой карточку и верните книги до конца месяца. Если вы потеряете одну из них, сразу сообщите нам.",
    ),
    (
        Script::Greek,
        "Η βιβλιοθήκη ανοίγει στις εννέα το πρωί. Φέρτε την κάρτα σας και επιστρέψτε τα βιβλία πριν από το τέλος του μήνα. Αν χάσετε κάποιο, πείτε μας το αμέσως.",
    ),
    (
        Script::Arabic,
        "تفتح المكتبة في الساعة التاسعة صباحا. أحضر بطاقتك وأعد الكتب قبل نهاية الشهر. إذا فقدت كتابا فأخبرنا فورا من فضلك.",
    ),
    (
        Script::Hebrew,
        "הספרייה נפתחת בתשע בבוקר. הביאו את הכרטיס שלכם והחזירו את הספרים לפני סוף החודש. אם איבדתם ספר, אנא הודיעו לנו מיד.",
    ),
    (
        Script::Devanagari,
        "पुस्तकालय सुबह नौ बजे खुलता है। अपना कार्ड साथ लाइए और महीने के अंत से पहले किताबें लौटा दीजिए। यदि कोई किताब खो जाए, तो कृपया हमें तुरंत बताइए।",
    ),
    (
        Script::Thai,
        "ห้องสมุดเปิดเวลาเก้าโมงเช้า กรุณานำบัตรของคุณมาด้วย และคืนหนังสือก่อนสิ้นเดือน หากคุณทำหนังสือหาย โปรดแจ้งให้เราทราบทันที",
    ),
    (Script::Han, "图书馆早上九点开门。请带上您的借书证，并在月底之前归还图书。如果您丢失了一本，请立即告诉我们。"),
    (
        Script::Hiragana,
        "図書館は朝の九時に開きます。カードを持ってきて、月末までに本を返してください。もし一冊をなくしたら、すぐに私たちに知らせてください。",
    ),
    (
        Script::Hangul,
        "도서관은 아침 아홉 시에 문을 엽니다. 카드를 가져오시고 월말 전에 책을 반납해 주세요. 책을 잃어버리시면 바로 알려 주세요.",
    ),
];
/// Tokens of an example over those of plain text, from which on it is hard.
const HARD: f64 = 1.6;
/// Share of its tokens that are bytes of a character, from which on it is hard too.
const MUCH_FALLBACK: f64 = 0.1;
/// Characters below which an example is not judged.
const SHORT: usize = 20;
/// Characters and examples that are named.
const NAMED: usize = 20;

/// How well a tokenizer covers a file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Coverage {
    /// The file.
    pub path: PathBuf,
    /// Its examples.
    pub examples: usize,
    /// Items that are none.
    pub unreadable: usize,
    /// Tokens of an example, without those of a template.
    pub tokens: Lengths,
    /// Its scripts, the most frequent first.
    pub scripts: Vec<ScriptCoverage>,
    /// Characters that fall back to bytes, the most frequent first; at most 20.
    pub fallback: Vec<FallenBack>,
    /// Characters that the tokenizer drops.
    pub dropped: Vec<String>,
    /// Examples that need many more tokens than plain text; how many, and the hardest of them.
    pub hard: usize,
    /// The hardest, at most 20.
    pub hardest: Vec<HardExample>,
}

/// One script's coverage.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScriptCoverage {
    /// Its Unicode name.
    pub script: String,
    /// Share of the file's characters.
    pub share: f64,
    /// Tokens for each character.
    pub tokens_per_character: f64,
    /// What this tokenizer needs for plain text of the script; `None` of scripts without a text here.
    pub norm: Option<f64>,
    /// Tokens of the same text in this script over those in English.
    pub premium: Option<f64>,
    /// Share of the tokens that are bytes of a character, not characters.
    pub fallback: f64,
}

/// A character that falls back to bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FallenBack {
    /// The character.
    pub character: String,
    /// Its number.
    pub code: String,
    /// How often it is there.
    pub count: usize,
}

/// An example that needs many tokens.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HardExample {
    /// Its line.
    pub line: usize,
    /// Its tokens over those that plain text of its length and scripts needs.
    pub ratio: f64,
    /// Share of its tokens that are bytes of a character.
    pub fallback: f64,
    /// Its tokens.
    pub tokens: usize,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    characters: usize,
    tokens: usize,
    bytes: usize,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.characters += other.characters;
        self.tokens += other.tokens;
        self.bytes += other.bytes;
    }
}

/// What is known of a tokenizer: its norms, and which of its tokens are bytes.
struct Measure<'t> {
    tokenizer: &'t Tokenizer,
    norms: HashMap<Script, (f64, f64)>,
    partial: Mutex<HashMap<u32, bool>>,
}

struct Looked {
    line: usize,
    scripts: HashMap<Script, Counts>,
    /// Characters of runs that fall back somewhere.
    suspects: HashMap<char, usize>,
    characters: BTreeSet<char>,
}

impl<'t> Measure<'t> {
    fn new(tokenizer: &'t Tokenizer) -> Result<Self> {
        let mut measure = Self { tokenizer, norms: HashMap::new(), partial: Mutex::default() };
        let mut english = None;
        for (script, text) in PLAIN {
            let tokens = tokenizer.encode(text, false)?.len() as f64;
            let premium = tokens / *english.get_or_insert(tokens);
            measure.norms.insert(script, (tokens / text.chars().count() as f64, premium));
        }
        Ok(measure)
    }

    /// Whether a token is a byte, or a few, of a character.
    fn is_partial(&self, id: u32) -> bool {
        let known = |map: &mut HashMap<u32, bool>| map.get(&id).copied();
        if let Some(partial) = known(&mut self.partial.lock().unwrap_or_else(std::sync::PoisonError::into_inner)) {
            return partial;
        }
        let spelt = self.tokenizer.token(id).unwrap_or_default();
        // SentencePiece spells a byte `<0xE4>`.
        let named = spelt.len() == 6 && spelt.starts_with("<0x") && spelt.ends_with('>');
        let partial = named || self.tokenizer.decode(&[id], false).is_ok_and(|text| text.contains('\u{fffd}'));
        self.partial.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(id, partial);
        partial
    }

    /// Whether a character alone is bytes.
    fn falls_back(&self, c: char) -> Result<bool> {
        let alone = self.tokenizer.encode(c.encode_utf8(&mut [0; 4]), false)?;
        Ok(alone.iter().any(|id| self.is_partial(*id)))
    }

    fn look(&self, line: usize, turns: &Turns) -> Result<Looked> {
        let mut looked =
            Looked { line, scripts: HashMap::new(), suspects: HashMap::new(), characters: BTreeSet::new() };
        for text in texts(turns) {
            for (script, run) in runs(text) {
                let ids = self.tokenizer.encode(run, false)?;
                let bytes = ids.iter().filter(|id| self.is_partial(**id)).count();
                let counts = Counts { characters: run.chars().count(), tokens: ids.len(), bytes };
                *looked.scripts.entry(script).or_default() += counts;
                if bytes > 0 {
                    run.chars().filter(|c| !c.is_ascii()).for_each(|c| *looked.suspects.entry(c).or_default() += 1);
                }
                looked.characters.extend(run.chars().filter(|c| !c.is_ascii() || c.is_control()));
            }
        }
        Ok(looked)
    }

    /// The example's tokens over those of plain text; scripts without a norm count as they are.
    fn hard(&self, looked: &Looked) -> Option<HardExample> {
        let mut all = Counts::default();
        let mut expected = 0.0;
        for (script, counts) in &looked.scripts {
            all += *counts;
            let norm = self.norms.get(&as_norm(*script)).map(|(norm, _)| norm * counts.characters as f64);
            expected += norm.unwrap_or(counts.tokens as f64);
        }
        let ratio = all.tokens as f64 / expected.max(1.0);
        let fallback = all.bytes as f64 / all.tokens.max(1) as f64;
        let hard = all.characters >= SHORT && (ratio >= HARD || fallback >= MUCH_FALLBACK);
        hard.then_some(HardExample { line: looked.line, ratio, fallback, tokens: all.tokens })
    }
}

/// Measures how well a tokenizer covers a file; tells `on_read` the bytes as they are read.
///
/// # Errors
/// A file that cannot be read, whose format cannot be told, or without an example.
pub fn coverage(path: &Path, format: DataFormat, tokenizer: &Tokenizer, on_read: OnRead<'_>) -> Result<Coverage> {
    let measure = Measure::new(tokenizer)?;
    let (mut scripts, mut suspects): (HashMap<Script, Counts>, HashMap<char, usize>) = Default::default();
    let (mut lengths, mut unreadable, mut characters) = (Vec::new(), 0, BTreeSet::new());
    let (mut hard, mut hardest): (usize, Vec<HardExample>) = (0, Vec::new());
    each_batch(path, format, on_read, &mut |batch| {
        let looked: Vec<Option<Looked>> = batch
            .par_iter()
            .map(|(line, turns)| turns.as_ref().ok().map(|turns| measure.look(*line, turns)).transpose())
            .collect::<Result<_>>()?;
        for looked in looked {
            let Some(looked) = looked else {
                unreadable += 1;
                continue;
            };
            lengths.push(looked.scripts.values().map(|counts| counts.tokens).sum::<usize>() as u32);
            if let Some(example) = measure.hard(&looked) {
                hard += 1;
                hardest.push(example);
            }
            looked.scripts.into_iter().for_each(|(script, counts)| *scripts.entry(script).or_default() += counts);
            looked.suspects.into_iter().for_each(|(c, n)| *suspects.entry(c).or_default() += n);
            characters.extend(looked.characters);
        }
        hardest.sort_by(|a, b| b.ratio.total_cmp(&a.ratio).then(a.line.cmp(&b.line)));
        hardest.truncate(NAMED);
        Ok(())
    })?;
    if lengths.is_empty() {
        return Err(Error::input(path, None, "has no example that can be read; `finetest data check` says why"));
    }
    let all: usize = scripts.values().map(|counts| counts.characters).sum();
    let mut scripts: Vec<ScriptCoverage> =
        scripts.into_iter().map(|(script, counts)| measure.told(script, counts, all)).collect();
    scripts.sort_by(|a, b| b.share.total_cmp(&a.share).then_with(|| a.script.cmp(&b.script)));
    let mut fallen: Vec<(char, usize)> = Vec::new();
    for (c, count) in suspects {
        if measure.falls_back(c)? {
            fallen.push((c, count));
        }
    }
    fallen.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    let told = |(c, count): (char, usize)| FallenBack {
        character: c.to_string(),
        code: format!("U+{:04X}", u32::from(c)),
        count,
    };
    let dropped = tokenizer.dropped(&characters.into_iter().collect::<String>());
    Ok(Coverage {
        path: path.to_owned(),
        examples: lengths.len(),
        unreadable,
        tokens: Lengths::of(lengths),
        scripts,
        fallback: fallen.into_iter().take(NAMED).map(told).collect(),
        dropped: dropped.into_iter().map(String::from).collect(),
        hard,
        hardest,
    })
}

impl Measure<'_> {
    fn told(&self, script: Script, counts: Counts, all: usize) -> ScriptCoverage {
        let norm = self.norms.get(&as_norm(script));
        ScriptCoverage {
            script: if script == Script::Common { "none".to_owned() } else { script.full_name().to_owned() },
            share: counts.characters as f64 / all.max(1) as f64,
            tokens_per_character: counts.tokens as f64 / counts.characters.max(1) as f64,
            norm: norm.map(|(norm, _)| *norm),
            premium: norm.map(|(_, premium)| *premium),
            fallback: counts.bytes as f64 / counts.tokens.max(1) as f64,
        }
    }
}

/// The script whose text is the norm: Japanese is written in three.
fn as_norm(script: Script) -> Script {
    if script == Script::Katakana { Script::Hiragana } else { script }
}

fn texts(turns: &Turns) -> Vec<&str> {
    match turns {
        Turns::Chat { messages, .. } => messages.iter().flat_map(Message::texts).collect(),
        Turns::Completion { prompt, completion } => vec![prompt, completion],
        Turns::Text(text) => vec![text],
    }
}

/// A text in runs of one script. What belongs to none goes with what is before it; Han before or after kana is Japanese.
fn runs(text: &str) -> Vec<(Script, &str)> {
    let mut runs: Vec<(Script, &str)> = Vec::new();
    let (mut start, mut current) = (0, Script::Common);
    for (at, c) in text.char_indices() {
        let script = as_norm(c.script());
        let neutral = matches!(script, Script::Common | Script::Inherited | Script::Unknown);
        let japanese = matches!((current, script), (Script::Hiragana, Script::Han) | (Script::Han, Script::Hiragana));
        if japanese {
            current = Script::Hiragana;
        } else if !neutral && current == Script::Common {
            current = script;
        } else if !neutral && script != current {
            runs.push((current, &text[start..at]));
            (start, current) = (at, script);
        }
    }
    if start < text.len() {
        runs.push((current, &text[start..]));
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer() -> Tokenizer {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer/tokenizer.json");
        Tokenizer::from_file(path).expect("a tokenizer")
    }

    fn of(lines: &[&str]) -> Coverage {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("d.jsonl");
        let line = |text: &&str| serde_json::json!({ "text": text }).to_string() + "\n";
        std::fs::write(&path, lines.iter().map(line).collect::<String>()).expect("a file");
        coverage(&path, DataFormat::Auto, &tokenizer(), &mut |_| {}).expect("coverage")
    }

    #[test]
    fn texts_are_cut_where_the_script_changes() {
        assert_eq!(runs("ab 1 вг, c"), [(Script::Latin, "ab 1 "), (Script::Cyrillic, "вг, "), (Script::Latin, "c")]);
        assert_eq!(runs("図書館は朝"), [(Script::Hiragana, "図書館は朝")]);
        assert_eq!(runs("图书馆"), [(Script::Han, "图书馆")]);
        assert_eq!(runs("12 + 3"), [(Script::Common, "12 + 3")]);
        assert_eq!(runs(""), []);
        for (script, text) in PLAIN {
            assert!(runs(text).iter().all(|(found, _)| *found == script), "{script:?}: {:?}", runs(text));
        }
    }

    #[test]
    fn scripts_that_the_tokenizer_does_not_know_fall_back_and_are_named() {
        let found = of(&["the quick brown fox jumps over the lazy dog", "быстрая лиса прыгает через собаку"]);
        assert_eq!((found.examples, found.unreadable), (2, 0));
        let script = |name: &str| found.scripts.iter().find(|s| s.script == name).expect("a script");
        // Bytes of two for each letter in a vocabulary of 320 tokens.
        assert!(script("Cyrillic").tokens_per_character > 1.3 && script("Cyrillic").fallback > 0.5, "{found:?}");
        assert_eq!(script("Latin").fallback, 0.0);
        assert!(script("Cyrillic").premium.expect("a norm") > 1.3);
        assert!(
            found.fallback.iter().any(|fallen| fallen.code == "U+0430" && fallen.count == 4),
            "{:?}",
            found.fallback
        );
        assert_eq!(found.hardest.first().map(|hard| hard.line), Some(2));
    }

    #[test]
    fn an_example_that_needs_far_more_than_plain_text_is_named() {
        let plain = PLAIN[0].1;
        // Letters that this vocabulary has no token for.
        let noise = "éàüößñçøåæêëîïôûÿœčřžšťďňłźżąę";
        let found = of(&[plain, noise]);
        assert_eq!(found.hardest.iter().map(|hard| hard.line).collect::<Vec<_>>(), [2], "{found:?}");
        assert!(found.tokens.most >= found.tokens.least && found.hard == 1);
    }
}
