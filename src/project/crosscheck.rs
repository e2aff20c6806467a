//! A project on candle and on another backend, llama.cpp or a server: the same base, adapter and scenarios, so that what differs is the serving.

use super::prepared::Prepared;
use super::{Events, TrainPolicy, backend, early};
use crate::backend::{CandleBackend, Progress, Second};
use crate::compare::crosscheck::{
    CrossCheck, Divergence, How, Limits, Measured, TemplateCheck, TokenCheck, divergence, spelt,
};
use crate::config::{BackendName, Config};
use crate::error::{Error, Result};
use crate::model::tokenizer::Tokenizer;
use crate::record::{CaseRecord, Completion, Finish, Message, Prompt, RunRecord, ScenarioRecord};

/// Positions whose logits are held at once, of both backends: 256 rows of 150 000 values are 150 MB.
const POSITIONS: usize = 256;

/// Texts that tokenisers are apt to disagree on: digits, blanks, scripts, marks, controls, and what spells a special token.
const TEXTS: [&str; 40] = [
    "0123456789 1234 12 345 6,789.01 ½ ² ٣٤٥ १२३",
    "3.14159 1e-9 0x1F 2024-02-29T23:59:60Z v1.2.3-rc.4",
    " leading",
    "trailing ",
    "two  blanks   three    four",
    "\ttab\t\ttabs\n\nlines\r\nwindows\r\n",
    "    indented\n        more\n\tmixed \t\n",
    "\u{a0}no-break\u{2003}em\u{3000}ideographic\u{200b}zero",
    "don't can't I'm you've he'll she'd WE'RE it’s l'été",
    "CamelCase snake_case kebab-case SCREAMING_CASE mixed123Case",
    "!?...,;:'\"()[]{}<>@#$%^&*-_=+|\\/~`",
    "«guillemets» „Anführung“ — dash – en … ellipsis · •",
    "你好，世界。这是一个测试。",
    "日本語のテスト、カタカナとひらがな。",
    "한국어 텍스트입니다. 띄어쓰기",
    "Съешь ещё этих мягких французских булок, да выпей чаю.",
    "Ελληνικά κείμενα με τόνους",
    "مرحبا بالعالم، هذا اختبار.",
    "שלום עולם, זה מבחן",
    "नमस्ते दुनिया, यह एक परीक्षण है।",
    "สวัสดีชาวโลก นี่คือการทดสอบ",
    "Tiếng Việt có nhiều dấu thanh điệu",
    "e\u{301}a\u{308}o\u{302} é ä ô n\u{303} \u{1e9b}\u{323}",
    "👍 👍🏽 👨‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 ❤️ 😀😀😀",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟘𝟙𝟚 𐍈 𓀀 🜁",
    "\u{1}\u{2}\u{7}\u{8}\u{b}\u{c}\u{e}\u{1b}[31m\u{7f}",
    "\u{feff}mark \u{202e}over\u{202c} \u{fffd}",
    "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n",
    "<|endoftext|>after <|im_end|> <|im_start|>",
    "<s>[INST] hi [/INST]</s> <bos> <eos> <unk> <pad>",
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n",
    "<|im_start |> < |im_end|> <|IM_END|> <|im_end|",
    "fn main() {\n    println!(\"{:?}\", vec![1, 2, 3]);\n}\n",
    "def f(x):\n\treturn x**2 if x != 0 else None  # comment\n",
    "{\"name\": \"Ada\", \"year\": 1815, \"tags\": [\"a\", null, true]}",
    "error[E0308]: mismatched types\n  --> src/main.rs:3:5\n   |\n3  |     foo(bar)\n",
    "https://example.org/a/b?c=d&e=%20f#g user@example.org C:\\Users\\x",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "Donaudampfschifffahrtsgesellschaftskapitän Straße ẞ ſ ﬁ ﬀ",
    "İstanbul ıI iİ Ǆ ǅ ǆ K Å Ω",
];

/// Runs a project on candle and on `other`, one of llama.cpp's or the project's server, and compares them.
///
/// # Errors
/// As [`super::run()`]; a server where the project names none, or a limit that no server can show. An answer that one backend could not
/// compute is reported in the result.
pub fn crosscheck(
    config: &Config,
    other: BackendName,
    policy: TrainPolicy,
    limits: Limits,
    on_event: Events<'_>,
) -> Result<CrossCheck> {
    if other == BackendName::Remote && config.backend != other {
        return Err(Error::Usage(
            "there is no server to compare with: set [backend] name = \"remote\" and its url".into(),
        ));
    }
    if other == BackendName::Remote && limits.max_kl.is_some() {
        let message = "a server tells the most likely tokens of a position, so that no KL divergence can be shown to be below --max-kl; leave it out";
        return Err(Error::Usage(message.into()));
    }
    let prepared = Prepared::open_whole(config, early::check_run(config)?, on_event)?;
    let tuned = prepared.adapter(BackendName::Candle, policy, on_event)?;
    let tested = prepared.arms(BackendName::Candle, tuned)?;
    let second = || backend::second(config, other, &prepared.base, &tested, prepared.server.as_ref());
    // What it refuses is reported before minutes are spent on the reference.
    second()?.chat()?;
    let one = prepared.ask(BackendName::Candle, &tested, on_event)?;
    let two = prepared.ask(other, &tested, on_event)?;
    let mut pair = Backends { reference: backend::candle(config, &prepared.base, &tested), other: second()? };
    let texts = pair.hard_texts()?;
    let prompts = pair.prompts(&one)?;
    let mut arms = Vec::new();
    for (number, arm) in one.arms.iter().enumerate() {
        on_event(Progress::Started { what: "comparing the backends", units: one.cases().count() }.into());
        let measured = pair.measure(number, &arm.name, [&one, &two], on_event)?;
        arms.push((arm.name.clone(), measured));
    }
    let template = pair.template().map_err(|why| why.to_string());
    let how = How {
        exact: other == BackendName::LlamaCppF32,
        distributions: pair.other.shows(),
        at_least: other == BackendName::Remote,
    };
    Ok(CrossCheck::of([&one, &two], how, [texts, prompts], template, arms, limits))
}

struct Backends {
    reference: CandleBackend,
    other: Box<dyn Second>,
}

/// A case with the answers of both.
struct Both<'a> {
    name: String,
    case: &'a CaseRecord,
    answers: [&'a Completion; 2],
}

impl Backends {
    fn hard_texts(&mut self) -> Result<Option<TokenCheck>> {
        let texts: Vec<String> = TEXTS.iter().map(|text| (*text).to_owned()).collect();
        self.tokens(&texts)
    }

    /// Every case's prompt, rendered.
    fn prompts(&mut self, run: &RunRecord) -> Result<Option<TokenCheck>> {
        let chat = self.other.chat()?;
        let rendered = run.cases().map(|(_, case)| chat.render(&case.prompt)).collect::<Result<Vec<_>>>()?;
        self.tokens(&rendered)
    }

    /// Hard texts as a user's message, and turns on turns, by both renderers; nothing without a template.
    fn template(&mut self) -> Result<Option<TemplateCheck>> {
        let Some(template) = &self.other.chat()?.template else { return Ok(None) };
        let (system, user) = (Message::new("system", "Answer briefly."), |text: &str| Message::new("user", text));
        let turns = [user("One?"), Message::new("assistant", "Two."), user("Three?")];
        let asked = TEXTS.iter().map(|text| vec![user(text)]).chain([turns.to_vec()]);
        // What a template refuses, as some do a system message, is compared without it.
        let rendered = asked.filter_map(|turns| {
            let whole = [std::slice::from_ref(&system), &turns].concat();
            let found = [whole, turns].into_iter().map(|turns| (template.render(&turns, true), turns));
            found.into_iter().find_map(|(text, turns)| Some((text.ok()?, turns)))
        });
        let (ours, conversations): (Vec<String>, Vec<Vec<Message>>) = rendered.unzip();
        let Some(theirs) = self.other.render(&conversations)? else { return Ok(None) };
        Ok(Some(TemplateCheck::of(&ours.into_iter().zip(theirs).collect::<Vec<_>>())))
    }

    fn tokens(&mut self, texts: &[String]) -> Result<Option<TokenCheck>> {
        let chat = self.other.chat()?;
        let ours = texts.iter().map(|text| chat.tokenizer.encode(text, true)).collect::<Result<Vec<_>>>()?;
        let Some(theirs) = self.other.tokenize(texts)? else { return Ok(None) };
        let rows = texts.iter().zip(ours.iter().zip(&theirs));
        let rows = rows.map(|(text, (ours, theirs))| (text.as_str(), ours.as_slice(), theirs.as_slice()));
        let chat = self.other.chat()?;
        Ok(Some(TokenCheck::of(rows, |id| spelling(&chat.tokenizer, id))))
    }

    /// One arm's distributions over the reference's answers, and where the answers part.
    fn measure(&mut self, number: usize, arm: &str, runs: [&RunRecord; 2], on_event: Events<'_>) -> Result<Measured> {
        let both: Vec<Both<'_>> =
            runs[0].cases().zip(runs[1].cases()).filter_map(|pair| generated(pair, arm)).collect();
        let alike = |both: &Both<'_>| {
            let [one, other] = both.answers.map(|answer| &answer.tokens);
            one.iter().zip(other).take_while(|(a, b)| a == b).count()
        };
        let alike = both.iter().map(alike).sum();
        let mut measured = Measured { answers: both.len(), alike, ..Measured::default() };
        let mut parted = Vec::new();
        // An empty answer of the reference has no positions to compare.
        let (empty, both): (Vec<_>, Vec<_>) = both.into_iter().partition(|both| both.answers[0].tokens.is_empty());
        for both in empty {
            let found = divergence(&both.answers[0].tokens, &both.answers[1].tokens);
            parted.extend(found.map(|(at, tokens)| (both.name, at, tokens, None)));
        }
        let mut rest = both.as_slice();
        while !rest.is_empty() {
            let (group, left) = rest.split_at(fitting(rest));
            rest = left;
            let asked: Vec<(usize, &Prompt, &[u32])> =
                group.iter().map(|b| (number, &b.case.prompt, b.answers[0].tokens.as_slice())).collect();
            let ours = self.reference.logits(&asked)?;
            let theirs = if self.other.shows() {
                self.other.beside(&asked, &ours)?.into_iter().map(Some).collect()
            } else {
                vec![None; asked.len()]
            };
            for (both, (ours, theirs)) in group.iter().zip(ours.iter().zip(theirs)) {
                on_event(Progress::Done(1).into());
                let found = divergence(&both.answers[0].tokens, &both.answers[1].tokens);
                if let Some((at, tokens)) = found {
                    let margin = margin(ours.get(at), tokens);
                    parted.push((both.name.clone(), at, tokens, margin));
                }
                match theirs {
                    Some(Ok(sample)) => measured.samples.push(sample),
                    Some(Err(why)) => drop(measured.errors.insert(both.name.clone(), why)),
                    None => {}
                }
            }
        }
        parted.sort_by(|a, b| a.0.cmp(&b.0));
        let tokenizer = &self.other.chat()?.tokenizer;
        let spelt = |tokens| spelt(tokens, |id| spelling(tokenizer, id));
        let parted = parted.into_iter();
        measured.divergences =
            parted.map(|(case, at, tokens, margin)| Divergence { case, at, tokens: spelt(tokens), margin }).collect();
        Ok(measured)
    }
}

/// What a token spells alone, or its name where it is a part of a character.
fn spelling(tokenizer: &Tokenizer, id: u32) -> String {
    let text = tokenizer.decode(&[id], false).ok().filter(|text| !text.is_empty() && !text.contains('\u{fffd}'));
    text.or_else(|| tokenizer.token(id)).unwrap_or_default()
}

/// A case that both backends generated an answer to, and did not only score choices.
fn generated<'a>(
    ((scenario, case), (_, same)): ((&'a ScenarioRecord, &'a CaseRecord), (&'a ScenarioRecord, &'a CaseRecord)),
    arm: &str,
) -> Option<Both<'a>> {
    let answer = |case: &'a CaseRecord| case.answers.get(arm)?.samples.first()?.turns.first();
    let answers = [answer(case)?, answer(same)?];
    (answers[0].finish != Finish::Scored).then(|| Both { name: scenario.test_name(case), case, answers })
}

/// How many of the next answers have their logits in memory together.
fn fitting(rest: &[Both<'_>]) -> usize {
    let mut positions = 0;
    let fits = |both: &&Both<'_>| {
        positions += both.answers[0].tokens.len();
        positions <= POSITIONS
    };
    rest.iter().take_while(fits).count().max(1)
}

/// By how much the first token is likelier than the second.
fn margin(row: Option<&Vec<f32>>, tokens: [Option<u32>; 2]) -> Option<f64> {
    let row = row?;
    let logit = |token: Option<u32>| row.get(token? as usize).map(|logit| f64::from(*logit));
    Some(logit(tokens[0])? - logit(tokens[1])?)
}
