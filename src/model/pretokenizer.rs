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
const DEEPSEEK_LETTERS: &str = "\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";
const DEEPSEEK_PUNCTUATION: &str =
    "\\s?[!-/:-~\u{ff01}-\u{ff0f}\u{ff1a}-\u{ff5e}\u{2018}-\u{201f}\u{3000}-\u{3002}]+";
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
    rules(
        &["deepseek-llm"],
        &["[\r\n]", DEEPSEEK_LETTERS, DEEPSEEK_PUNCTUATION, r"\s+$", DEEPSEEK_CJK, r"\p{N}+"],
    ),
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
    pub(super) add_bos: bool,
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
    Ok(PreTokenizer {
        pre_tokenizer: Sequence::new(steps).into(),
        ignore_merges: rules.ignore_merges,
        add_bos: rules.add_bos,
    })
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
