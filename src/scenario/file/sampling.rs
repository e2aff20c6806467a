//! How a scenario's answers are made: what stops them, and how their tokens are chosen.

use toml::Spanned;

use super::{RawScenario, Reader};
use crate::record::Sampling;

/// Strings that stop an answer: each is looked for after each token.
const MOST_STOPS: usize = 64;
/// Above it a distribution is as good as flat.
const MOST_TEMPERATURE: f64 = 100.0;

impl Reader<'_> {
    pub(super) fn stop(&mut self, raw: Vec<Spanned<String>>) -> Vec<String> {
        for stop in raw.iter().filter(|stop| stop.get_ref().is_empty()) {
            self.fail(&stop.span(), "stop is empty, which every answer begins with; take it out");
        }
        if let Some(one_more) = raw.get(MOST_STOPS) {
            self.fail(&one_more.span(), format!("stop has {} strings, expected at most {MOST_STOPS}", raw.len()));
        }
        raw.into_iter().map(Spanned::into_inner).collect()
    }

    pub(super) fn sampling(&mut self, raw: &RawScenario) -> Sampling {
        let temperature = raw.temperature.as_ref().map_or(0.0, |t| *t.get_ref());
        if let Some(given) = &raw.temperature
            && !(0.0..=MOST_TEMPERATURE).contains(&temperature)
        {
            let message = format!("temperature is {temperature}, expected 0 (greedy) to {MOST_TEMPERATURE}");
            self.fail(&given.span(), message);
        }
        let top_p = raw.top_p.as_ref().map_or(1.0, |p| *p.get_ref());
        if let Some(given) = &raw.top_p
            && !(top_p > 0.0 && top_p <= 1.0)
        {
            self.fail(&given.span(), format!("top_p is {top_p}, expected above 0 and at most 1"));
        }
        let spans = [
            ("top_k", raw.top_k.as_ref().map(Spanned::span)),
            ("top_p", raw.top_p.as_ref().map(Spanned::span)),
            ("seed", raw.seed.as_ref().map(Spanned::span)),
        ];
        for (key, span) in spans {
            if let Some(span) = span
                && temperature == 0.0
            {
                let message = format!("{key} has no effect without a temperature above 0; give one, or take it out");
                self.fail(&span, message);
            }
        }
        let top_k = raw.top_k.as_ref().map_or(0, |k| *k.get_ref());
        let seed = raw.seed.as_ref().map_or(0, |s| u64::from(*s.get_ref()));
        if temperature == 0.0 { Sampling::default() } else { Sampling { temperature, top_k, top_p, seed } }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{cases, refused};
    use crate::record::Sampling;

    #[test]
    fn how_tokens_are_chosen_and_what_stops_an_answer_hold_for_the_whole_file() {
        let case = "[[cases]]\nprompt = \"x\"\nchecks = [\"json\"]";
        let found =
            cases(&format!("stop = [\"\\n\", \"END\"]\ntemperature = 0.7\ntop_k = 40\ntop_p = 0.9\nseed = 3\n{case}"));
        let request = &found.expect("a case")[0].request;
        assert_eq!(request.stop, ["\n", "END"]);
        assert_eq!(request.sampling, Sampling { temperature: 0.7, top_k: 40, top_p: 0.9, seed: 3 });
        assert!(cases(&format!("temperature = 0\n{case}")).expect("greedy")[0].request.sampling.is_greedy());
        refused(cases(&format!("stop = [\"a\",\n\"\"]\n{case}")), 4, "stop is empty");
        let many = vec!["\"x\""; 65].join(", ");
        refused(cases(&format!("stop = [{many}]\n{case}")), 3, "stop has 65 strings, expected at most 64");
        for temperature in ["-0.5", "nan", "inf", "101.0"] {
            refused(cases(&format!("temperature = {temperature}\n{case}")), 3, "expected 0 (greedy) to 100");
        }
        refused(cases(&format!("temperature = 1\ntop_p = 0.0\n{case}")), 4, "expected above 0 and at most 1");
        for key in ["top_k = 5", "top_p = 0.5", "seed = 1"] {
            refused(cases(&format!("\n{key}\n{case}")), 4, "has no effect without a temperature above 0");
        }
    }
}
