//! How text is cut into pieces before byte-pair merges: the rules a GGUF file names in `tokenizer.ggml.pre`.
//!
//! A GGUF file carries the vocabulary and the merges but only the *name* of the pre-tokeniser. The table below gives each name the
//! rules that llama.cpp applies to it, so that a text becomes the same tokens here and there. A wrong rule does not fail: it
//! tokenises numbers or spaces in a way the model never saw. So a name that is not in the table is an error, never a guess.

use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const BLOOM: &str = " ?[^(\\s|.,!?…。，、।۔،)]+";
/// Cased letters as DeepSeek's first tokenizer lists them: a property class of a later Unicode version would match more.
const DEEPSEEK_LETTERS: &str = "\\s?[\
    A-Za-z\u{b5}\u{c0}-\u{d6}\u{d8}-\u{f6}\u{f8}-\u{1ba}\u{1bc}-\u{1bf}\u{1c4}-\u{293}\u{295}-\u{2af}\
    \u{370}-\u{373}\u{376}\u{377}\u{37b}-\u{37d}\u{37f}\u{386}\u{388}-\u{38a}\u{38c}\u{38e}-\u{3a1}\
    \u{3a3}-\u{3f5}\u{3f7}-\u{481}\u{48a}-\u{52f}\u{531}-\u{556}\u{10a0}-\u{10c5}\u{13a0}-\u{13f5}\
    \u{13f8}-\u{13fd}\u{1c90}-\u{1cba}\u{1cbd}-\u{1cbf}\u{1d00}-\u{1d2b}\u{1d6b}-\u{1d77}\u{1d79}-\u{1d9a}\
    \u{1e00}-\u{1f15}\u{1f18}-\u{1f1d}\u{1f20}-\u{1f45}\u{1f48}-\u{1f4d}\u{1f50}-\u{1f57}\u{1f59}\u{1f5b}\
    \u{1f5d}\u{1f5f}-\u{1f7d}\u{1f80}-\u{1fb4}\u{1fb6}-\u{1fbc}\u{1fbe}\u{1fc2}-\u{1fc4}\u{1fc6}-\u{1fcc}\
    \u{1fd0}-\u{1fd3}\u{1fd6}-\u{1fdb}\u{1fe0}-\u{1fec}\u{1ff2}-\u{1ff4}\u{1ff6}-\u{1ffc}\u{2102}\u{2107}\
    \u{210a}-\u{2113}\u{2115}\u{2119}-\u{211d}\u{2124}\u{2126}\u{2128}\u{212a}-\u{212d}\u{212f}-\u{2134}\
    \u{2139}\u{213c}-\u{213f}\u{2145}-\u{2149}\u{214e}\u{2183}\u{2184}\u{2c00}-\u{2c7b}\u{2c7e}-\u{2ce4}\
    \u{2ceb}-\u{2cee}\u{2cf2}\u{2cf3}\u{a640}-\u{a66d}\u{a680}-\u{a69b}\u{a722}-\u{a76f}\u{a771}-\u{a787}\
    \u{a78b}-\u{a78e}\u{ab70}-\u{abbf}\u{fb00}-\u{fb06}\u{fb13}-\u{fb17}\u{ff21}-\u{ff3a}\u{ff41}-\u{ff5a}\
    \u{10400}-\u{1044f}\u{104b0}-\u{104d3}\u{104d8}-\u{104fb}\u{10c80}-\u{10cb2}\u{10cc0}-\u{10cf2}\
    \u{118a0}-\u{118df}\u{1e900}-\u{1e943}\
    ]+";
const DEEPSEEK_PUNCTUATION: &str = "\\s?[!-/:-~\u{ff01}-\u{ff0f}\u{ff1a}-\u{ff5e}\u{2018}-\u{201f}\u{3000}-\u{3002}]+";
const DEEPSEEK_CJK: &str = "[\u{0800}-\u{9fa5}\u{ac00}-\u{d7ff}]+";
const DEEPSEEK3_CJK: &str = "[\u{4e00}-\u{9fa5}\u{3040}-\u{30ff}]+";
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;

/// The rules behind a name.
struct Rules {
    /// The names that mean them.
    names: &'static [&'static str],
    /// Applied one after the other, each to the pieces the last one left; matches and gaps both become pieces.
    splits: &'static [&'static str],
    /// A piece that is a token of the vocabulary is that token, whatever the merges say.
    ignore_merges: bool,
    /// Whether a text begins with the `bos` token when the file does not say.
    add_bos: bool,
}

const fn rules(names: &'static [&'static str], splits: &'static [&'static str]) -> Rules {
    Rules { names, splits, ignore_merges: false, add_bos: false }
}

const TABLE: &[Rules] = &[
    rules(&["default"], &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]),
    rules(
        &[
            "gpt-2",
            "gpt2",
            "phi-2",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
            "gigachat",
            "mellum",
            "modern-bert",
        ],
        &[GPT2],
    ),
    rules(
        &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"],
        &[r"\p{N}", GPT2],
    ),
    Rules {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
        splits: &[LLAMA3],
        ignore_merges: true,
        add_bos: true,
    },
    rules(&["smaug-bpe", "dbrx", "chatglm-bpe", "glm4"], &[LLAMA3]),
    rules(&["qwen2", "deepseek-r1-qwen", "megrez", "stablelm2", "hunyuan", "grok-2", "solar-open"], &[QWEN2]),
    rules(&["qwen35"], &[QWEN35]),
    rules(&["gpt-4o", "llama4"], &[GPT4O]),
    Rules { names: &["tekken"], splits: &[TEKKEN], ignore_merges: true, add_bos: true },
    rules(&["deepseek-llm"], &["[\r\n]", DEEPSEEK_LETTERS, DEEPSEEK_PUNCTUATION, r"\s+$", DEEPSEEK_CJK, r"\p{N}+"]),
    rules(&["deepseek-coder"], &["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", DEEPSEEK_CJK, r"\p{N}"]),
    rules(&["deepseek-v3", "hunyuan-dense", "joyai-llm"], &[r"\p{N}{1,3}", DEEPSEEK3_CJK, DEEPSEEK3]),
    rules(&["falcon"], &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"]),
    rules(&["bloom", "poro-chat", "gpt3-finnish"], &[BLOOM]),
    rules(&["viking"], &[BLOOM, r"\p{N}"]),
];

/// What a name in `tokenizer.ggml.pre` asks for.
pub(super) struct PreTokenizer {
    pub(super) pre_tokenizer: PreTokenizerWrapper,
    pub(super) ignore_merges: bool,
}

/// Whether a text begins with the `bos` token by the rules of `name`, when the file does not say.
pub(super) fn begins_with_bos(name: &str) -> bool {
    TABLE.iter().any(|rules| rules.names.contains(&name) && rules.add_bos)
}

/// The rules of `name`; `Err` holds a message that names it and lists those known.
pub(super) fn pre_tokenizer(name: &str) -> Result<PreTokenizer, String> {
    let Some(rules) = TABLE.iter().find(|r| r.names.contains(&name)) else {
        let known = names().join(", ");
        return Err(format!("tokenizer.ggml.pre is {name:?}, which is not known; known are {known}"));
    };
    let mut steps: Vec<PreTokenizerWrapper> = Vec::with_capacity(rules.splits.len() + 1);
    for split in rules.splits {
        let pattern = SplitPattern::Regex((*split).to_owned());
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
            .map_err(|e| format!("pre-tokeniser {name}: {e}"))?;
        steps.push(split.into());
    }
    steps.push(ByteLevel::new(false, true, false).into());
    Ok(PreTokenizer { pre_tokenizer: Sequence::new(steps).into(), ignore_merges: rules.ignore_merges })
}

/// Every name in the table.
pub(super) fn names() -> Vec<&'static str> {
    TABLE.iter().flat_map(|r| r.names.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use tokenizers::tokenizer::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _};

    use super::*;

    fn pieces(name: &str, text: &str) -> Vec<String> {
        let mut pre = PreTokenizedString::from(text);
        pre_tokenizer(name).unwrap().pre_tokenizer.pre_tokenize(&mut pre).unwrap();
        let splits = pre.get_splits(OffsetReferential::Original, OffsetType::Byte);
        splits.into_iter().map(|(_, (start, end), _)| text[start..end].to_owned()).collect()
    }

    #[test]
    fn every_name_compiles_and_loses_no_byte() {
        let text = "I'VE 1234 données, 東京\r\n\n  \tx=3.14;  café 🙂 ok   ";
        for name in names() {
            assert_eq!(pieces(name, text).concat(), text, "{name}");
        }
    }

    #[test]
    fn no_name_has_two_meanings() {
        let mut all = names();
        all.sort_unstable();
        let count = all.len();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn digits_are_grouped_as_each_family_groups_them() {
        assert_eq!(pieces("gpt-2", "a 12345"), ["a", " 12345"]);
        assert_eq!(pieces("smollm", "a 12345"), ["a", " ", "1", "2", "3", "4", "5"]);
        assert_eq!(pieces("qwen2", "a 12345"), ["a", " ", "1", "2", "3", "4", "5"]);
        assert_eq!(pieces("llama-bpe", "a 12345"), ["a", " ", "123", "45"]);
        assert_eq!(pieces("deepseek-v3", "a 12345"), ["a", " ", "123", "45"]);
        assert_eq!(pieces("deepseek-coder", "a 12"), ["a", " ", "1", "2"]);
        assert_eq!(pieces("deepseek-llm", "a 12345"), ["a", " ", "12345"]);
        assert_eq!(pieces("falcon", "1234"), ["123", "4"]);
        assert_eq!(pieces("default", "a1234"), ["a", "123", "4"]);
    }

    #[test]
    fn contractions_are_cut_in_upper_case_only_where_the_family_does() {
        assert_eq!(pieces("gpt-2", "WE'RE"), ["WE", "'", "RE"]);
        assert_eq!(pieces("llama-bpe", "WE'RE"), ["WE", "'RE"]);
    }

    #[test]
    fn runs_of_spaces_leave_one_for_the_next_word() {
        assert_eq!(pieces("smollm", "a   b"), ["a", "  ", " b"]);
        assert_eq!(pieces("smollm", "a\n\n b  "), ["a", "\n\n", " b", "  "]);
    }

    #[test]
    fn cjk_and_latin_are_separate_pieces_for_deepseek() {
        assert_eq!(pieces("deepseek-v3", "abc東京def"), ["abc", "東京", "def"]);
    }

    #[test]
    fn an_unknown_name_is_named_with_those_known() {
        let message = pre_tokenizer("qwen99").err().unwrap();
        assert!(message.contains("\"qwen99\"") && message.contains("llama-bpe"), "{message}");
    }
}
