//! Which language an answer is written in.

use std::fmt;

use whatlang::{Detector, Lang};

use crate::config::nearest;
use crate::shown::quote;

/// A language that can be told from others by its letters and trigrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Language(Lang);

/// What a short text of a Latin script is held against, besides its own language: the languages that models fall back to.
const FALLBACKS: [Lang; 6] = [Lang::Eng, Lang::Fra, Lang::Deu, Lang::Spa, Lang::Ita, Lang::Por];

impl Language {
    /// The language of this English name (`German`) or ISO 639-3 code (`deu`).
    pub(crate) fn named(name: &str) -> Result<Self, String> {
        // Models, and whatlang, mean by Chinese the language that `cmn` names.
        let name = if name.eq_ignore_ascii_case("chinese") { "cmn" } else { name };
        let found = Lang::all().iter().find(|lang| lang.eng_name().eq_ignore_ascii_case(name) || lang.code() == name);
        found.copied().map(Self).ok_or_else(|| {
            let meant = nearest(name, Lang::all().iter().map(|lang| lang.eng_name()));
            let meant = meant.map_or_else(String::new, |near| format!("; did you mean {near:?}?"));
            format!("{name:?} is no language that can be told, expected an English name such as \"German\"{meant}")
        })
    }

    /// What is wrong, when the text is in another language or has no letter.
    ///
    /// A text too short to be sure of only has to be likelier in this language than in the ones that models fall back to.
    pub(crate) fn misfit(self, text: &str) -> Option<String> {
        let Some(found) = whatlang::detect(text) else {
            return Some(format!("no language was found in {}", quote(text)));
        };
        if found.lang() == self.0 {
            return None;
        }
        if !found.is_reliable() {
            let among: Vec<Lang> = FALLBACKS.into_iter().chain([self.0]).collect();
            if Detector::with_allowlist(among).detect_lang(text) == Some(self.0) {
                return None;
            }
        }
        Some(format!("it is {}: {}", found.lang().eng_name(), quote(text)))
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.eng_name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn misfit(name: &str, text: &str) -> Option<String> {
        Language::named(name).expect("a language").misfit(text)
    }

    #[test]
    fn sentences_are_told_apart() {
        let sentences = [
            ("English", "The capital of France is Paris, a city on the river Seine."),
            ("German", "Die Hauptstadt von Frankreich ist Paris, eine Stadt an der Seine."),
            ("French", "La capitale de la France est Paris, une ville au bord de la Seine."),
            ("Spanish", "La capital de Francia es París, una ciudad a orillas del río Sena."),
            ("Italian", "La capitale della Francia è Parigi, una città sulle rive della Senna."),
            ("Portuguese", "A capital da França é Paris, uma cidade às margens do rio Sena."),
            ("Russian", "Столица Франции — Париж, город на реке Сене."),
            ("Chinese", "法国的首都是巴黎。"),
            ("Japanese", "フランスの首都はパリです。"),
            ("Korean", "프랑스의 수도는 파리입니다."),
            ("Arabic", "عاصمة فرنسا هي باريس."),
        ];
        for (language, sentence) in sentences {
            assert_eq!(misfit(language, sentence), None);
            for (other, _) in sentences.iter().filter(|(other, _)| *other != language) {
                assert!(misfit(other, sentence).is_some(), "{language} taken for {other}");
            }
        }
    }

    #[test]
    fn what_is_short_is_told_from_english() {
        assert_eq!(misfit("German", "Guten Morgen, wie geht es dir?"), None);
        assert!(misfit("German", "Good morning, how are you today?").is_some());
        assert!(misfit("German", "{\"tool\": null}").is_some());
        assert!(misfit("English", "12:30").expect("no letters").starts_with("no language"));
    }

    #[test]
    fn names_and_codes_are_known_and_others_refused() {
        assert_eq!(Language::named("german"), Language::named("deu"));
        assert_eq!(Language::named("Chinese").map(|l| l.0), Ok(Lang::Cmn));
        let error = Language::named("Germann").expect_err("not a language");
        assert!(error.ends_with("did you mean \"German\"?"), "{error}");
    }
}
