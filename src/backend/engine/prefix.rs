//! What prompts begin with in common (a system message, a few-shot header) is computed once an arm.

use super::{Engine, Row};
use crate::error::Result;
use crate::model::decoder::cache::Cache;

/// Shorter beginnings are not worth a pass of their own.
const SHORTEST: usize = 8;

/// A prefix and what it left behind.
pub(super) struct Prefix {
    arm: usize,
    tokens: Vec<u32>,
    cache: Cache,
}

/// The prefixes of a set of prompts.
#[derive(Default)]
pub(super) struct Prefixes {
    found: Vec<Prefix>,
}

impl Prefixes {
    /// Finds and computes the prefixes that at least two prompts of an arm share. `prompts`: (arm, tokens).
    pub(super) fn compute(engine: &Engine<'_>, prompts: &[(usize, &[u32])]) -> Result<Self> {
        let found = shared_beginnings(prompts);
        let mut found: Vec<Prefix> =
            found.into_iter().map(|(arm, tokens)| Prefix { arm, tokens, cache: engine.decoder.cache() }).collect();
        let mut rows: Vec<Row<'_>> =
            found.iter_mut().map(|p| Row { arm: p.arm, tokens: &p.tokens, cache: &mut p.cache }).collect();
        if !rows.is_empty() {
            engine.forward(&mut rows)?;
        }
        Ok(Self { found })
    }

    /// A cache that holds the longest known beginning of `tokens`; its length says how many tokens are done.
    pub(super) fn start(&self, engine: &Engine<'_>, arm: usize, tokens: &[u32]) -> Cache {
        let fits = |p: &&Prefix| p.arm == arm && p.tokens.len() < tokens.len() && tokens.starts_with(&p.tokens);
        let longest = self.found.iter().filter(fits).max_by_key(|p| p.tokens.len());
        longest.map_or_else(|| engine.decoder.cache(), |p| p.cache.clone())
    }
}

/// Beginnings that at least two prompts of an arm share and that are worth a pass of their own: (arm, tokens) each.
pub(crate) fn shared_beginnings(prompts: &[(usize, &[u32])]) -> Vec<(usize, Vec<u32>)> {
    let mut sorted: Vec<(usize, &[u32])> = prompts.to_vec();
    sorted.sort();
    let mut found = Vec::new();
    let mut group: Option<(usize, &[u32], usize)> = None;
    let mut close = |group: Option<(usize, &[u32], usize)>| {
        if let Some((arm, tokens, members)) = group
            && members > 1
            && tokens.len() >= SHORTEST
        {
            found.push((arm, tokens.to_vec()));
        }
    };
    for (arm, tokens) in sorted {
        // The last token is always left to compute: its logits are wanted.
        let tokens = &tokens[..tokens.len().saturating_sub(1)];
        let shared = group.map_or(0, |(a, t, _)| if a == arm { common(t, tokens) } else { 0 });
        match group {
            Some((_, t, members)) if shared >= SHORTEST => group = Some((arm, &t[..shared], members + 1)),
            _ => {
                close(group);
                group = Some((arm, tokens, 1));
            }
        }
    }
    close(group);
    found
}

fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}
