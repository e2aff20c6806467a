//! What a session is asked: answers, scores of given tokens, two arms on the same tokens, and the proof that the adapter is
//! on. The same questions as those to [`crate::backend::engine::Engine`], with the same meaning.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::feed::{Reader, Sequence, Shape, by_length, feed};
use super::{Session, context, load};
use crate::backend::engine::{Choice, Compared, Continuation, Ends, Generated, Generation, choose};
use crate::backend::llama_cpp::protocol::Reply;
use crate::error::{Error, Result};
use crate::model::ops::rows::{larger, largest_difference, log_normaliser};

/// Takes replies while a job is done; it fails when nobody listens.
pub(super) type Tell<'t> = &'t mut dyn FnMut(Reply) -> Result<()>;

impl Session {
    /// Answers every generation, one arm after another.
    ///
    /// # Errors
    /// Logits that are not finite, a context that cannot be made.
    pub(super) fn generate(&mut self, items: &[Generation], stop: &[u32], tell: Tell<'_>) -> Result<()> {
        // Only a string that stops an answer is looked for in its text.
        let pieces = if items.iter().any(|g| !g.stop.is_empty()) { self.pieces()? } else { Vec::new() };
        let text = |tokens: &[u32]| {
            let bytes = tokens.iter().filter_map(|token| pieces.get(*token as usize)).flatten();
            String::from_utf8_lossy(&bytes.copied().collect::<Vec<u8>>()).into_owned()
        };
        let ends = Ends { tokens: stop, text: &text };
        for arm in 0..self.opening.arms.len() {
            let of_arm = items.iter().enumerate().filter(|(_, g)| g.arm == arm);
            let sequences = of_arm.map(|(item, g)| Sequence {
                item,
                tokens: g.prompt.clone(),
                wanted: g.prompt.len() - 1,
                most: g.prompt.len() + g.max_tokens,
            });
            let (sequences, answers) = (sequences.collect(), items.iter().map(|_| Vec::new()).collect());
            self.run(
                &[arm],
                sequences,
                &mut Answers { items, ends: &ends, answers, near_ties: vec![0; items.len()], tell },
            )?;
        }
        Ok(())
    }

    /// Σ ln p(token) of each continuation.
    ///
    /// # Errors
    /// As [`Self::generate`].
    pub(super) fn score(&mut self, items: &[Continuation], tell: Tell<'_>) -> Result<()> {
        for arm in 0..self.opening.arms.len() {
            let sequences = items.iter().enumerate().filter(|(_, c)| c.arm == arm).map(|(i, c)| forced(i, c));
            let scores = vec![0.0; items.len()];
            self.run(&[arm], sequences.collect(), &mut Scores { items, scores, tell })?;
        }
        Ok(())
    }

    /// Distributions of two arms on the tokens of each text after its prompt. The arms of the texts are not looked at.
    ///
    /// # Errors
    /// As [`Self::generate`].
    pub(super) fn compare(&mut self, items: &[Continuation], arms: (usize, usize), tell: Tell<'_>) -> Result<()> {
        let (empty, full): (Vec<_>, Vec<_>) = items.iter().enumerate().partition(|(_, c)| c.tokens.is_empty());
        for (item, _) in empty {
            tell(Reply::Compared(item, Compared::default()))?;
        }
        let sequences = full.into_iter().map(|(item, c)| forced(item, c)).collect();
        let found = vec![Compared::default(); items.len()];
        self.run(&[arms.0, arms.1], sequences, &mut Pairs { items, found, tell })
    }

    /// On these prompts: the largest difference of a logit between the arms, and between base and the same model loaded once more
    /// without any adapter.
    ///
    /// # Errors
    /// As [`Self::generate`].
    pub(super) fn probe_adapter(&mut self, prompts: &[Vec<u32>], (base, tuned): (usize, usize)) -> Result<(f64, f64)> {
        let together = self.last_logits(prompts, &[base, tuned])?;
        let alone = {
            if self.opening.placement.is_some() {
                // A mapped file is in memory once. A GPU would have to hold it twice.
                self.loaded = None;
            }
            let model = load(self.backend, &self.opening)?;
            let mut last = Last::new(prompts.len());
            for sequences in by_length(full_prompts(prompts)) {
                let shape = Shape::of(&sequences, self.opening.batch);
                let mut contexts = [context(self.backend, &model, self.opening.threads, &shape)?];
                feed(&mut contexts, &shape, sequences, &mut last)?;
            }
            last.rows
        };
        let (mut effect, mut untouched) = (0f64, 0f64);
        for (together, alone) in together.iter().zip(&alone) {
            effect = larger(effect, largest_difference(&together[0], &together[1]));
            untouched = larger(untouched, largest_difference(&together[0], &alone[0]));
        }
        Ok((effect, untouched))
    }

    /// Logits of each prompt's last position, for each of the arms.
    ///
    /// # Errors
    /// As [`Self::generate`].
    pub(super) fn last_logits(&mut self, prompts: &[Vec<u32>], arms: &[usize]) -> Result<Vec<Vec<Vec<f32>>>> {
        let mut last = Last::new(prompts.len());
        self.run(arms, full_prompts(prompts), &mut last)?;
        Ok(last.rows)
    }

    /// Writes the logits of every position that predicts one of an item's tokens, a file of `directory` for each item.
    ///
    /// # Errors
    /// As [`Self::generate`]; a file cannot be written.
    pub(super) fn logits(&mut self, items: &[Continuation], directory: &Path, tell: Tell<'_>) -> Result<()> {
        for arm in 0..self.opening.arms.len() {
            let sequences = items.iter().enumerate().filter(|(_, c)| c.arm == arm).map(|(i, c)| forced(i, c));
            self.run(&[arm], sequences.collect(), &mut Rows { directory, files: HashMap::new(), tell })?;
        }
        Ok(())
    }

    fn run(&mut self, arms: &[usize], sequences: Vec<Sequence>, reader: &mut dyn Reader) -> Result<()> {
        for sequences in by_length(sequences) {
            let shape = Shape::of(&sequences, self.opening.batch);
            let mut contexts = self.contexts(arms, &shape)?;
            feed(&mut contexts, &shape, sequences, reader)?;
        }
        Ok(())
    }
}

/// A text whose tokens are given: the last one is not run, since nothing is asked of what follows it.
fn forced(item: usize, c: &Continuation) -> Sequence {
    let mut tokens = [c.prompt.as_slice(), &c.tokens].concat();
    tokens.pop();
    let most = tokens.len();
    Sequence { item, tokens, wanted: c.prompt.len() - 1, most }
}

/// Whole prompts, with their last token.
fn full_prompts(prompts: &[Vec<u32>]) -> Vec<Sequence> {
    let sequence = |(item, prompt): (usize, &Vec<u32>)| Sequence {
        item,
        tokens: prompt.clone(),
        wanted: prompt.len() - 1,
        most: prompt.len(),
    };
    prompts.iter().enumerate().map(sequence).collect()
}

struct Answers<'a, 't> {
    items: &'a [Generation],
    ends: &'a Ends<'a>,
    answers: Vec<Vec<u32>>,
    near_ties: Vec<usize>,
    tell: Tell<'t>,
}

impl Reader for Answers<'_, '_> {
    fn started(&mut self, item: usize) -> Result<()> {
        (self.tell)(Reply::Started(item))
    }

    fn logits(&mut self, item: usize, _: usize, rows: &[&[f32]]) -> Result<Option<u32>> {
        let (asked, answer) = (&self.items[item], &mut self.answers[item]);
        let Choice { token, near_tie } = choose(rows[0], &asked.sampling, answer.len(), None);
        self.near_ties[item] += usize::from(near_tie);
        answer.push(token);
        let Some(finish) = self.ends.ended(asked, answer) else { return Ok(Some(token)) };
        let tokens = std::mem::take(answer);
        (self.tell)(Reply::Generated(item, Generated { tokens, finish, near_ties: self.near_ties[item] }))?;
        Ok(None)
    }

    fn computed(&mut self, tokens: usize) -> Result<()> {
        (self.tell)(Reply::Tokens(tokens))
    }

    fn finished(&mut self, _: usize) -> Result<()> {
        Ok(())
    }
}

struct Scores<'a, 't> {
    items: &'a [Continuation],
    scores: Vec<f64>,
    tell: Tell<'t>,
}

impl Reader for Scores<'_, '_> {
    fn started(&mut self, item: usize) -> Result<()> {
        (self.tell)(Reply::Started(item))
    }

    fn logits(&mut self, item: usize, position: usize, rows: &[&[f32]]) -> Result<Option<u32>> {
        let c = &self.items[item];
        let token = c.tokens[position + 1 - c.prompt.len()] as usize;
        self.scores[item] += f64::from(rows[0][token]) - log_normaliser(rows[0]);
        Ok(None)
    }

    fn computed(&mut self, tokens: usize) -> Result<()> {
        (self.tell)(Reply::Tokens(tokens))
    }

    fn finished(&mut self, item: usize) -> Result<()> {
        (self.tell)(Reply::Scored(item, self.scores[item]))
    }
}

struct Pairs<'a, 't> {
    items: &'a [Continuation],
    found: Vec<Compared>,
    tell: Tell<'t>,
}

impl Reader for Pairs<'_, '_> {
    fn started(&mut self, item: usize) -> Result<()> {
        (self.tell)(Reply::Started(item))
    }

    fn logits(&mut self, item: usize, position: usize, rows: &[&[f32]]) -> Result<Option<u32>> {
        let c = &self.items[item];
        let token = c.tokens[position + 1 - c.prompt.len()] as usize;
        self.found[item].push(rows[0], rows[1], token);
        Ok(None)
    }

    fn computed(&mut self, tokens: usize) -> Result<()> {
        (self.tell)(Reply::Tokens(tokens))
    }

    fn finished(&mut self, item: usize) -> Result<()> {
        (self.tell)(Reply::Compared(item, std::mem::take(&mut self.found[item])))
    }
}

/// Keeps each item's last logits, of every context.
struct Last {
    rows: Vec<Vec<Vec<f32>>>,
}

impl Last {
    fn new(items: usize) -> Self {
        Self { rows: vec![Vec::new(); items] }
    }
}

impl Reader for Last {
    fn started(&mut self, _: usize) -> Result<()> {
        Ok(())
    }

    fn logits(&mut self, item: usize, _: usize, rows: &[&[f32]]) -> Result<Option<u32>> {
        self.rows[item] = rows.iter().map(|row| row.to_vec()).collect();
        Ok(None)
    }

    fn computed(&mut self, _: usize) -> Result<()> {
        Ok(())
    }

    fn finished(&mut self, _: usize) -> Result<()> {
        Ok(())
    }
}

/// Writes logits down.
struct Rows<'a, 't> {
    directory: &'a Path,
    files: HashMap<usize, BufWriter<File>>,
    tell: Tell<'t>,
}

impl Rows<'_, '_> {
    fn path(&self, item: usize) -> PathBuf {
        self.directory.join(item.to_string())
    }
}

impl Reader for Rows<'_, '_> {
    fn started(&mut self, item: usize) -> Result<()> {
        let path = self.path(item);
        let file = File::create(&path).map_err(Error::io(&path, "create"))?;
        self.files.insert(item, BufWriter::new(file));
        (self.tell)(Reply::Started(item))
    }

    fn logits(&mut self, item: usize, _: usize, rows: &[&[f32]]) -> Result<Option<u32>> {
        let path = self.path(item);
        if let Some(file) = self.files.get_mut(&item) {
            let bytes: Vec<u8> = rows[0].iter().flat_map(|logit| logit.to_le_bytes()).collect();
            file.write_all(&bytes).map_err(Error::io(&path, "write"))?;
        }
        Ok(None)
    }

    fn computed(&mut self, _: usize) -> Result<()> {
        Ok(())
    }

    fn finished(&mut self, item: usize) -> Result<()> {
        let path = self.path(item);
        self.files.remove(&item).map_or(Ok(()), |mut file| file.flush()).map_err(Error::io(&path, "write"))?;
        (self.tell)(Reply::Written(item))
    }
}
