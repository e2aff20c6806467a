//! A data file divided into one to train on and one to validate with. Each example's side depends on its own group alone, so examples that
//! are added later move no other.

use std::io::{BufWriter, Write};
use std::path::Path;

use serde::Serialize;

use super::check::prompt_key;
use super::format::{self, Format};
use super::format_of;
use super::source::{OnRead, Watched};
use crate::config::DataFormat;
use crate::error::{Error, Result};
use crate::files::write_atomically_with;

/// How a file is divided.
#[derive(Clone, Debug)]
pub struct DivideOptions {
    /// The file's format.
    pub format: DataFormat,
    /// Share of the groups that validate, above 0 and below 1.
    pub share: f64,
    /// Another seed, another division.
    pub seed: u64,
    /// Key of a line whose value is its group; without one, examples with the same prompt are a group.
    pub by: Option<String>,
}

/// Examples on each side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Divided {
    /// To train on.
    pub train: usize,
    /// To validate with.
    pub validation: usize,
}

/// Writes each example of a file, as it stands there, into one of two files; tells `on_read` the bytes as they are read.
///
/// # Errors
/// A file that cannot be read or written, a line that is no example or lacks the key, and a side without an example.
pub fn divide(
    from: &Path,
    options: &DivideOptions,
    [train, validation]: [&Path; 2],
    on_read: OnRead<'_>,
) -> Result<Divided> {
    let format = format_of(from, options.format)?;
    let mut done = Divided { train: 0, validation: 0 };
    write_atomically_with(train, |train_file| {
        write_atomically_with(validation, |validation_file| {
            let mut sides = [BufWriter::new(train_file), BufWriter::new(validation_file)];
            let mut source = Watched::open(from)?;
            let failed = |path: &Path, source| Error::Io { path: path.to_owned(), action: "write", source };
            while let Some((line, item)) = source.next_line(on_read)? {
                let group = |text: &str| group(text, format, options.by.as_deref());
                let (text, group) = item
                    .and_then(|text| group(&text).map(|group| (text, group)))
                    .map_err(|why| Error::input(from, line, why))?;
                let validates = validates(&group, options);
                writeln!(sides[usize::from(validates)], "{text}")
                    .map_err(|error| failed(if validates { validation } else { train }, error))?;
                *(if validates { &mut done.validation } else { &mut done.train }) += 1;
            }
            let [train_side, validation_side] = &mut sides;
            train_side.flush().map_err(|error| failed(train, error))?;
            validation_side.flush().map_err(|error| failed(validation, error))?;
            let empty = if done.train == 0 {
                Some("train on")
            } else if done.validation == 0 {
                Some("validate with")
            } else {
                None
            };
            empty.map_or(Ok(()), |what| {
                let why = format!(
                    "a share of {} leaves none of {} examples to {what}; give another share or seed",
                    options.share,
                    done.train + done.validation
                );
                Err(Error::input(from, None, why))
            })
        })
    })?;
    Ok(done)
}

/// What keeps examples on one side.
fn group(text: &str, format: Format, by: Option<&str>) -> Result<Vec<u8>, String> {
    let object = format::object(text.as_bytes())?;
    match by {
        Some(key) => match object.get(key) {
            Some(value) if !value.is_null() => Ok(value.to_string().into_bytes()),
            _ => Err(format!("has no {key:?}, by which the examples are grouped")),
        },
        None => Ok(prompt_key(&format.turns(object)?).to_le_bytes().to_vec()),
    }
}

fn validates(group: &[u8], options: &DivideOptions) -> bool {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&options.seed.to_le_bytes()).update(group);
    let bytes: [u8; 8] = hasher.finalize().as_bytes()[..8].try_into().unwrap_or_default();
    (u64::from_le_bytes(bytes) as f64) < options.share * 2f64.powi(64)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const OPTIONS: DivideOptions = DivideOptions { format: DataFormat::Auto, share: 0.1, seed: 42, by: None };

    fn divided(lines: &[String], options: &DivideOptions) -> Result<[BTreeSet<String>; 2]> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("d.jsonl"), lines.join("\n")).expect("a file");
        let done = divide(&path("d.jsonl"), options, [&path("t.jsonl"), &path("v.jsonl")], &mut |_| {})?;
        let sides = ["t.jsonl", "v.jsonl"].map(|name| {
            let text = std::fs::read_to_string(path(name)).expect("a file");
            text.lines().map(str::to_owned).collect::<BTreeSet<String>>()
        });
        assert_eq!([sides[0].len(), sides[1].len()], [done.train, done.validation]);
        Ok(sides)
    }

    fn line(prompt: usize, answer: usize) -> String {
        format!(
            "{{\"prompt\": \"question {prompt}\", \"completion\": \"answer {answer}\", \"source\": \"book {}\"}}",
            prompt % 7
        )
    }

    #[test]
    fn a_tenth_validates_and_what_is_added_moves_nothing() {
        let lines: Vec<String> = (0..2000).map(|i| line(i, i)).collect();
        let [train, validation] = divided(&lines[..1000], &OPTIONS).expect("divided");
        assert!((70..130).contains(&validation.len()), "{}", validation.len());
        let [more_train, more_validation] = divided(&lines, &OPTIONS).expect("divided");
        assert!(train.is_subset(&more_train) && validation.is_subset(&more_validation));
        let other = divided(&lines[..1000], &DivideOptions { seed: 7, ..OPTIONS }).expect("divided");
        assert_ne!(other[1], validation);
    }

    #[test]
    fn a_group_is_on_one_side() {
        let lines: Vec<String> = (0..300).map(|i| line(i / 3, i)).collect();
        let prompts = |side: &BTreeSet<String>| {
            side.iter().map(|line| line.split(',').next().map(str::to_owned)).collect::<BTreeSet<_>>()
        };
        let [train, validation] = divided(&lines, &DivideOptions { share: 0.3, ..OPTIONS }).expect("divided");
        assert!(prompts(&train).is_disjoint(&prompts(&validation)));
        let by = DivideOptions { by: Some("source".into()), share: 0.5, ..OPTIONS };
        let [train, validation] = divided(&lines, &by).expect("divided");
        let sources = |side: &BTreeSet<String>| {
            side.iter().map(|line| line.rsplit("book ").next().map(str::to_owned)).collect::<BTreeSet<_>>()
        };
        assert!(
            sources(&train).is_disjoint(&sources(&validation))
                && sources(&train).len() + sources(&validation).len() == 7
        );
    }

    #[test]
    fn what_cannot_be_divided_says_why() {
        let error =
            |lines: &[String], options: &DivideOptions| divided(lines, options).expect_err("refused").to_string();
        let none = error(&[line(1, 1)], &OPTIONS);
        assert!(none.contains("a share of 0.1 leaves none of 1 examples to validate with"), "{none}");
        let by = DivideOptions { by: Some("author".into()), ..OPTIONS };
        assert!(error(&[line(1, 1)], &by).contains("d.jsonl:1: has no \"author\", by which"));
        assert!(error(&[line(1, 1), "x".into()], &OPTIONS).contains("d.jsonl:2: not JSON"));
    }
}
