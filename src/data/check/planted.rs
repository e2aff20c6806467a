//! Defects planted into clean text: how many of each kind are found, and how often clean text is flagged.
//!
//! The clean text is the example's data, the prose of the book, and comments of this crate, none of which was written for a detector. What was
//! missed in the first two was looked at, and detectors were changed for it; what is missed in the comments was not.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{CheckOptions, check, kinds};
use crate::random::mix;

/// A note, and what some of the example's diagnostics really are to each other.
const NO_DEFECT: [&str; 2] = ["assistant-leftover", "near-duplicate"];

/// Defects of each kind.
const PLANTED: usize = 100;
/// Truncated answers in one file of clean lines. They are found by what is usual in a file, so they must be few in it.
const TRUNCATED_AT_ONCE: usize = 4;
/// Truncated answers without clean lines beside them: one that was cut in its first sentence or between two looks like a short one.
const ALONE: &str = "truncated, alone";

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
            if is_prose(&block) {
                let page = page.file_stem().expect("a name").to_string_lossy().replace('-', " ");
                found.push((format!("Explain part {n} of \"{heading}\" in the chapter {page}."), block));
            }
        }
    }
    found
}

/// Two sentences or more, without code.
fn is_prose(text: &str) -> bool {
    let plain = text.starts_with(char::is_alphabetic) && !text.contains(['`', '|', '[', '<', '*', '#', '=']);
    plain && text.contains(". ") && text.ends_with('.')
}

/// A question and an answer of prose: a comment of this crate's code.
fn comments() -> Vec<(String, String)> {
    let (mut found, mut folders, mut files) = (Vec::new(), vec![root().join("src")], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() { &mut folders } else { &mut files }.push(path);
        }
    }
    files.sort();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a file");
        let mut block = Vec::new();
        for (n, line) in text.lines().chain([""]).enumerate() {
            match line.trim().strip_prefix("///").or_else(|| line.trim().strip_prefix("//!")) {
                Some(said) if !said.trim().is_empty() => block.push(said.trim()),
                _ => {
                    let said = std::mem::take(&mut block).join(" ");
                    let name = file.file_stem().expect("a name").to_string_lossy();
                    if is_prose(&said) {
                        found.push((format!("What is said before line {n} of the code for {name}?"), said));
                    }
                }
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
            // Otherwise all would differ by the same sequences, which would be one sample and not a hundred. With the same prompt and
            // another answer it would be a contradiction.
            let mut asked: Vec<&str> = prompt.split_whitespace().collect();
            let at = draw(seed, asked.len());
            match seed % 3 {
                0 => asked[at] = words[draw(seed + 1, words.len())],
                1 => asked.insert(at, words[draw(seed + 1, words.len())]),
                _ => drop(asked.remove(at)),
            }
            chat(&asked.join(" "), answer)
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
        let hits = |before: &[String], at_once: usize| -> usize {
            let of = |some: &[String]| {
                let path = write("planted.jsonl", &[before, some].concat());
                let found = flagged(&path, kind, &options).into_iter().filter(|line| *line > before.len()).count();
                found.min(some.len())
            };
            planted.chunks(at_once).map(of).sum()
        };
        let found = match kind {
            "duplicate" | "near-duplicate" | "contradiction" => hits(&lines, PLANTED),
            "truncated" => hits(&lines, TRUNCATED_AT_ONCE),
            _ => hits(&[], PLANTED),
        };
        rates.insert(kind, (found, planted.len()));
        if kind == "truncated" {
            rates.insert(ALONE, (hits(&[], PLANTED), planted.len()));
        }
    }
    (rates, wrong.len())
}

#[test]
#[expect(clippy::print_stdout, reason = "the figures of the book come from here")]
fn planted_defects_are_found_and_clean_text_is_let_be() {
    // Comments are short: one word of them is much of their text, and they change with the code.
    for (what, clean, least, most_wrong) in
        [("prose", prose(), 95, 0.01), ("records", records(), 95, 0.01), ("comments", comments(), 85, 0.02)]
    {
        assert!(clean.len() >= PLANTED, "{what}: {}", clean.len());
        let (mut rates, wrong) = found(&clean);
        let alone = rates.remove(ALONE).expect("truncated answers");
        let (all, of): (usize, usize) = rates.values().fold((0, 0), |sum, rate| (sum.0 + rate.0, sum.1 + rate.1));
        println!("{what}: {all} of {of}, {wrong} of {} clean ones: {rates:?}; {ALONE}: {alone:?}", clean.len());
        assert!(all * 100 >= 95 * of, "{what}: {all} of {of}");
        assert!(alone.0 * 100 >= 60 * alone.1 || what == "comments", "{what}: {alone:?}");
        for (kind, (found, planted)) in rates {
            assert!(found * 100 >= least * planted, "{what}: {kind}: {found} of {planted}");
        }
        assert!(wrong as f64 <= most_wrong * clean.len() as f64, "{what}: {wrong} of {}", clean.len());
    }
}
