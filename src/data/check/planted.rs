//! Defects planted into clean text: how many of each kind are found, and how often clean text is flagged.
//!
//! The clean text is the example's data and the prose of the book, neither of which was written for a detector.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{CheckOptions, check, kinds};
use crate::random::mix;

/// What is found of kinds whose planted defects are not all such that they can be seen: an answer that was cut in its first sentence or
/// between two looks like a short one, a prompt that speaks of harm, of mark-up or of words lets a finding be, and 40 bytes of an example do not tell every near one.
const LEAST: [(&str, usize); 5] =
    [("html", 85), ("near-duplicate", 85), ("refusal", 85), ("rude", 85), ("truncated", 60)];

/// A note, and what some of the example's diagnostics really are to each other.
const NO_DEFECT: [&str; 2] = ["assistant-leftover", "near-duplicate"];

/// Defects of each kind.
const PLANTED: usize = 100;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A question and an answer of prose: a paragraph of the book of two sentences or more, without code, under its heading.
fn prose() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut pages: Vec<PathBuf> = ["tutorials", "how-to", "explanation"]
        .iter()
        .flat_map(|room| std::fs::read_dir(root().join("docs").join(room)).expect("the book"))
        .map(|entry| entry.expect("a page").path())
        .collect();
    pages.sort();
    for page in pages {
        let text = std::fs::read_to_string(&page).expect("a page");
        let mut heading = String::new();
        for (n, block) in text.split("\n\n").enumerate() {
            let block = block.trim().replace('\n', " ");
            if let Some(title) = block.strip_prefix('#') {
                title.trim_start_matches('#').trim().clone_into(&mut heading);
            }
            let plain = block.starts_with(char::is_alphabetic) && !block.contains(['`', '|', '[', '<', '*', '#', '=']);
            if plain && block.matches(". ").count() >= 1 && block.ends_with('.') {
                let page = page.file_stem().expect("a name").to_string_lossy().replace('-', " ");
                found.push((format!("Explain part {n} of \"{heading}\" in the chapter {page}."), block));
            }
        }
    }
    found
}

/// The example's own prompts and answers, which are JSON.
fn records() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(root().join("data/train.jsonl")).expect("the example's data");
    let read = |line: &str| {
        let line: Value = serde_json::from_str(line).expect("JSON");
        let said = |n: usize| line["messages"][n]["content"].as_str().expect("a text").to_owned();
        let last = line["messages"].as_array().expect("messages").len() - 1;
        (said(last - 1), said(last))
    };
    text.lines().map(read).collect()
}

/// A number below `most` for this example and purpose.
fn draw(seed: usize, most: usize) -> usize {
    (mix(seed as u64 ^ 0x9e37_79b9) % most as u64) as usize
}

fn chat(prompt: &str, answer: &str) -> String {
    json!({"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}).to_string()
}

/// Puts a phrase behind one of the sentences.
fn within(answer: &str, phrase: &str, seed: usize) -> String {
    let ends: Vec<usize> = answer.match_indices(". ").map(|(at, _)| at + 2).collect();
    let at = ends.get(draw(seed, ends.len().max(1))).copied().unwrap_or(answer.len());
    format!("{}{phrase} {}", &answer[..at], &answer[at..])
}

/// One of the texts, with digits in place of `#`.
fn filled(texts: &[&str], seed: usize) -> String {
    let text = texts[seed % texts.len()];
    text.chars()
        .enumerate()
        .map(|(i, c)| if c == '#' { char::from(b'0' + draw(seed * 131 + i, 10) as u8) } else { c })
        .collect()
}

/// A card's number whose check digit is right (Luhn).
fn card(seed: usize) -> String {
    let digits: Vec<u32> = std::iter::once(4).chain((0..14).map(|i| draw(seed * 17 + i, 10) as u32)).collect();
    let doubled = |(i, d): (usize, &u32)| if i % 2 == 0 { (d * 2) / 10 + (d * 2) % 10 } else { *d };
    let sum: u32 = digits.iter().enumerate().map(doubled).sum();
    let text: String = digits.iter().chain([&((10 - sum % 10) % 10)]).map(u32::to_string).collect();
    [&text[..4], &text[4..8], &text[8..12], &text[12..]].join(" ")
}

/// The line with a defect of the kind; `None` of a kind that is planted otherwise.
fn defect(kind: &str, prompt: &str, answer: &str, seed: usize) -> Option<String> {
    let words: Vec<&str> = answer.split_whitespace().collect();
    Some(match kind {
        "unreadable" => {
            let line = chat(prompt, answer);
            [line[..line.len() - 3].to_owned(), line.replace("assistant", "robot"), line.replace("messages", "msgs")][seed % 3].clone()
        }
        "empty" => chat(prompt, ["...", "N/A", "TODO", "null", "-", "[insert answer here]"][seed % 6]),
        "truncated" => {
            let from = words.len() * (50 + draw(seed, 40)) / 100;
            chat(prompt, words[..from].join(" ").trim_end_matches(['.', ',']))
        }
        "repetition" => {
            let (start, n) = (draw(seed, words.len().saturating_sub(8).max(1)), 4 + draw(seed + 1, 4));
            let looped = words[start..(start + n).min(words.len())].join(" ");
            chat(prompt, &format!("{} {}", words[..start.min(6)].join(" "), vec![looped; 12].join(" ")))
        }
        "refusal" => chat(prompt, &filled(&["I'm sorry, but I can't help with that.", "I cannot assist with this request.", "I am unable to provide that information.", "Sorry, I can't do that."], seed)),
        "assistant-leftover" => chat(prompt, &format!("{} {answer}", filled(&["As an AI language model, I can say this.", "Certainly! Here is an explanation:", "As of my last knowledge update in 202#, this holds."], seed))),
        "roles" => match seed % 3 {
            0 => json!({"messages": [{"role": "assistant", "content": answer}, {"role": "user", "content": prompt}]}),
            1 => json!({"messages": [{"role": "user", "content": prompt}, {"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}),
            _ => json!({"messages": [{"role": "user", "content": prompt}, {"role": "system", "content": "Be brief."}, {"role": "assistant", "content": answer}]}),
        }
        .to_string(),
        "template-tags" => chat(prompt, &format!("{answer}{}", ["<|im_end|>", " [/INST]", "</s>", "<|eot_id|>", "\n### Response:"][seed % 5])),
        "mojibake" => {
            // UTF-8 read as CP1252, as a careless export does it.
            let said = within(answer, "Café “Zürich” isn’t far – naïve as it sounds.", seed);
            chat(prompt, &said.replace('é', "Ã©").replace('ü', "Ã¼").replace('’', "â€™").replace('“', "â€œ").replace('–', "â€“").replace('ï', "Ã¯"))
        }
        "html" => chat(prompt, &["<p>{}</p>", "<div class=\"text\">{}</div>", "{}<br/>", "{}&nbsp;&nbsp;", "<span>{}</span>"][seed % 5].replace("{}", answer)),
        "boilerplate" => chat(prompt, &format!("{answer} {}", filled(&["Subscribe to our newsletter!", "© 20## All rights reserved.", "Share on Facebook Share on Twitter", "We use cookies to improve your experience. Accept all cookies.", "Click here to read more."], seed))),
        "secret" => chat(prompt, &within(answer, &filled(&["AKIAIOSFODNN7EX####Q", "ghp_Ab##cD##eF##gH##iJ##kL##mN##oP##qR##", "sk-proj-Ab##cD##eF##gH##iJ##kL##mN##oP##", "password=hunter####x", "postgres://admin:s3cr##t@db.internal:5432/app"], seed), seed)),
        "personal" => {
            let data = match seed % 3 {
                0 => filled(&["anna.schmidt##@gmail.com", "j.miller##@outlook.com"], seed),
                1 => card(seed),
                _ => filled(&["+49 151 2345 ####", "(212) 555-01## 2 or +1 212 736 ####"], seed),
            };
            chat(prompt, &within(answer, &format!("Reach me at {data}."), seed))
        }
        "rude" => chat(prompt, &within(answer, ["You are an idiot.", "Shut up, you moron.", "What a stupid question, you idiot.", "Fuck you."][seed % 4], seed)),
        "too-long" => chat(prompt, &vec![answer; 4096 * 5 / answer.len().max(1) + 1].join(" Then: ")),
        "duplicate" => chat(&prompt.to_uppercase(), answer),
        "near-duplicate" => {
            // One word is another; with the same prompt and another answer it would be a contradiction.
            chat(&format!("{prompt} Please."), answer)
        }
        "contradiction" => chat(prompt, "Nobody knows for certain, since no record of it was ever kept by anyone."),
        _ => return None,
    })
}

/// Of each kind how many of the planted lines are found with it, and how many clean lines have an error or a warning.
fn found(clean: &[(String, String)]) -> (BTreeMap<&'static str, (usize, usize)>, usize) {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let write = |name: &str, lines: &[String]| {
        let path = folder.path().join(name);
        std::fs::write(&path, lines.join("\n")).expect("a file");
        path
    };
    let lines: Vec<String> = clean.iter().map(|(prompt, answer)| chat(prompt, answer)).collect();
    let flagged = |path: &Path, kind: &str, options: &CheckOptions| -> Vec<usize> {
        let options = CheckOptions { shown: usize::MAX, ..options.clone() };
        let (report, _) = check(path, &options, &mut |_| {}).expect("a report");
        let of_kind = report.counts.iter().filter(|count| count.kind == kind || kind.is_empty());
        of_kind
            .filter(|count| !kind.is_empty() || !NO_DEFECT.contains(&count.kind))
            .flat_map(|count| count.shown.iter().map(|found| found.line))
            .collect()
    };
    let long = CheckOptions { sequence_len: Some(4096), ..CheckOptions::default() };
    let mut wrong = flagged(&write("clean.jsonl", &lines), "", &long);
    wrong.sort_unstable();
    wrong.dedup();
    let mut rates = BTreeMap::new();
    for kind in kinds().map(|kind| kind.name) {
        let planted: Vec<String> = (0..PLANTED)
            .filter_map(|i| {
                let (prompt, answer) = &clean[i % clean.len()];
                defect(kind, prompt, answer, i)
            })
            .collect();
        let (planted, options) = if kind == "leak" {
            let prompts = clean.iter().take(PLANTED).map(|(prompt, _)| (prompt.to_lowercase(), "a case".to_owned()));
            (lines[..PLANTED].to_vec(), CheckOptions { scenarios: prompts.collect(), ..CheckOptions::default() })
        } else {
            (planted, long.clone())
        };
        // What is compared stands behind what it is compared with.
        let before =
            if matches!(kind, "duplicate" | "near-duplicate" | "contradiction") { lines.clone() } else { Vec::new() };
        let path = write("planted.jsonl", &[before.clone(), planted.clone()].concat());
        let hits = flagged(&path, kind, &options).into_iter().filter(|line| *line > before.len()).count();
        rates.insert(kind, (hits.min(planted.len()), planted.len()));
    }
    (rates, wrong.len())
}

#[test]
fn planted_defects_are_found_and_clean_text_is_let_be() {
    let (prose, records) = (prose(), records());
    assert!(prose.len() >= PLANTED && records.len() >= PLANTED, "{} {}", prose.len(), records.len());
    for (what, clean) in [("prose", &prose), ("records", &records)] {
        let (rates, wrong) = found(clean);
        let (all, of): (usize, usize) = rates.values().fold((0, 0), |sum, rate| (sum.0 + rate.0, sum.1 + rate.1));
        assert!(all * 100 >= 95 * of, "{what}: {all} of {of}: {rates:?}");
        for (kind, (found, planted)) in rates {
            let least = LEAST.iter().find(|(name, _)| *name == kind).map_or(95, |(_, least)| *least);
            assert!(found * 100 >= least * planted, "{what}: {kind}: {found} of {planted}");
        }
        assert!(wrong * 100 <= clean.len(), "{what}: {wrong} of {}", clean.len());
    }
}
