//! Which script an answer is written in.

use std::fmt;

use unicode_script::{Script, UnicodeScript};

use crate::config::nearest;

/// A way of writing: a Unicode script, or the ones that a language mixes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Writing {
    name: String,
    scripts: Vec<Script>,
}

/// Least share of letters that must belong.
const SHARE: f64 = 0.9;

/// What is offered when a name is not known; every other Unicode script works as well.
const COMMON: [&str; 20] = [
    "Latin",
    "Cyrillic",
    "Greek",
    "Arabic",
    "Hebrew",
    "Devanagari",
    "Bengali",
    "Tamil",
    "Telugu",
    "Thai",
    "Georgian",
    "Armenian",
    "Ethiopic",
    "Khmer",
    "Han",
    "Hiragana",
    "Katakana",
    "Hangul",
    "Japanese",
    "Korean",
];

impl Writing {
    /// The script of this name (`Latin`) or ISO 15924 code (`Latn`). `Japanese` is Han, Hiragana and Katakana, `Korean`
    /// Hangul and Han.
    pub(crate) fn named(name: &str) -> Result<Self, String> {
        let scripts = match name {
            "Japanese" | "Jpan" => vec![Script::Han, Script::Hiragana, Script::Katakana],
            "Korean" | "Kore" => vec![Script::Hangul, Script::Han],
            _ => Script::from_full_name(name).or_else(|| Script::from_short_name(name)).into_iter().collect(),
        };
        let none = [Script::Common, Script::Inherited, Script::Unknown];
        if scripts.is_empty() || scripts.iter().any(|s| none.contains(s)) {
            let meant = nearest(name, COMMON).map_or_else(String::new, |near| format!("; did you mean {near:?}?"));
            return Err(format!("{name:?} is not a Unicode script; some are {}{meant}", COMMON.join(", ")));
        }
        Ok(Self { name: name.to_owned(), scripts })
    }

    /// What is wrong, when fewer than 90 % of the letters belong, or there is none. Letters that belong to no script in
    /// particular (`ª`, `𝑥`) are not counted.
    pub(crate) fn misfit(&self, text: &str) -> Option<String> {
        let (mut letters, mut ours) = (0_usize, 0_usize);
        for c in text.chars().filter(|c| c.is_alphabetic()) {
            let scripts = c.script_extension();
            if scripts.is_common() || scripts.is_inherited() {
                continue;
            }
            letters += 1;
            ours += usize::from(self.scripts.iter().any(|s| scripts.contains_script(*s)));
        }
        if letters == 0 {
            return Some("there is no letter".into());
        }
        let share = ours as f64 / letters as f64;
        (share < SHARE).then(|| format!("{ours} of {letters} letters are, expected at least {:.0} %", SHARE * 100.0))
    }
}

impl fmt::Display for Writing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn misfit(name: &str, text: &str) -> Option<String> {
        Writing::named(name).expect("a script").misfit(text)
    }

    #[test]
    fn digits_and_punctuation_do_not_count() {
        assert_eq!(misfit("Latin", "Il est 12:30, ça va ?"), None);
        assert_eq!(misfit("Cyrillic", "«Привет, мир!» 2024"), None);
        assert_eq!(misfit("Latin", "1, 2, 3 …").as_deref(), Some("there is no letter"));
    }

    #[test]
    fn nine_letters_in_ten_are_enough_and_fewer_are_not() {
        assert_eq!(misfit("Cyrillic", "абвгдежзиz"), None);
        let failure = misfit("Cyrillic", "абвгдежзzz");
        assert_eq!(failure.as_deref(), Some("8 of 10 letters are, expected at least 90 %"));
    }

    #[test]
    fn vowel_signs_and_long_vowels_belong_to_their_script() {
        assert_eq!(misfit("Devanagari", "नमस्ते दुनिया"), None);
        assert_eq!(misfit("Katakana", "コーヒー"), None);
        assert_eq!(misfit("Japanese", "私はコーヒーを飲みます。"), None);
        assert!(misfit("Han", "私はコーヒーを飲みます。").is_some());
        assert_eq!(misfit("Thai", "สวัสดีครับ"), None);
    }

    #[test]
    fn names_and_codes_are_known_and_others_refused() {
        assert!(Writing::named("Latn").is_ok());
        assert!(Writing::named("Linear_B").is_ok());
        let error = Writing::named("latin").expect_err("names begin with a capital");
        assert!(error.ends_with("did you mean \"Latin\"?"), "{error}");
        assert!(Writing::named("Common").is_err());
        assert!(COMMON.iter().all(|name| Writing::named(name).is_ok()));
    }
}
