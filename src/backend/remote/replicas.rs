//! Servers that hold the same base and adapters, asked as one: each request goes to the one with the least to do, and to another when
//! that one is gone. One that was lost is not asked again in this run: what comes back may be another.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::http::{Failure, Patience};
use super::server::{Server, Takes};
use crate::config::RemoteConfig;
use crate::error::{Error, Result};

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// Answers are written.
    Write,
    /// Given text is scored.
    Score,
}

/// The servers of a project.
pub(super) struct Replicas {
    servers: Vec<Box<dyn Server>>,
    urls: Vec<String>,
    /// Requests at once to each, where the manifest says.
    concurrency: Option<usize>,
    state: Mutex<State>,
    changed: Condvar,
    patience: Patience,
}

struct State {
    /// Requests under way at each; `None` of one that was lost.
    under_way: Vec<Option<usize>>,
    /// Why servers were lost, until it was said.
    lost: Vec<String>,
}

impl State {
    /// How many are left without one.
    fn lose(&mut self, i: usize, why: &str, patience: &Patience) -> usize {
        self.under_way[i] = None;
        let left = self.under_way.iter().flatten().count();
        patience.left(left);
        if left > 0 {
            self.lost.push(format!("a server is lost, the others go on ({left} left): {why}"));
        }
        left
    }
}

impl Replicas {
    /// Reaches every address.
    ///
    /// # Errors
    /// One cannot be reached or lacks an adapter; two do not serve the same.
    pub(super) fn connect(config: &RemoteConfig, arms: &[(String, f64)]) -> Result<Self> {
        // An address that does not answer at the start is a mistake, however many others there are.
        let patience = Patience::with(1);
        let connect = |url: &String| super::connect::connect(config, url, &patience, arms);
        let servers = config.urls.iter().map(connect).collect::<Result<Vec<_>>>()?;
        if let Some(other) = (1..servers.len()).find(|i| names(servers[*i].identity()) != names(servers[0].identity()))
        {
            return Err(Error::failed(format!(
                "{} and {} do not serve the same: {}, and {}; give addresses of the same engine, version, model and adapters",
                config.urls[0],
                config.urls[other],
                servers[0].identity(),
                servers[other].identity()
            )));
        }
        patience.left(servers.len());
        let state = State { under_way: vec![Some(0); servers.len()], lost: Vec::new() };
        Ok(Self {
            urls: config.urls.clone(),
            concurrency: config.concurrency,
            servers,
            state: Mutex::new(state),
            changed: Condvar::new(),
            patience,
        })
    }

    /// Engine, version and model.
    pub(super) fn identity(&self) -> &str {
        self.servers[0].identity()
    }

    /// Tokens of the longest prompt with its answer that every server takes.
    pub(super) fn context(&self) -> usize {
        self.servers.iter().map(|server| server.context()).min().unwrap_or(0)
    }

    pub(super) fn takes(&self) -> Takes {
        self.servers[0].takes()
    }

    /// They tell log-probabilities of text that they are given.
    pub(super) fn scores(&self) -> bool {
        self.servers.iter().all(|server| server.scoring() > 0)
    }

    /// Requests at the same time to all of them.
    pub(super) fn at_once(&self, work: Work) -> usize {
        self.servers.iter().map(|server| self.limit(server.as_ref(), work)).sum()
    }

    /// The servers that are not lost, with their addresses.
    pub(super) fn living(&self) -> Vec<(&str, &dyn Server)> {
        let state = self.state();
        let living = (0..self.servers.len()).filter(|i| state.under_way[*i].is_some());
        living.map(|i| (self.urls[i].as_str(), self.servers[i].as_ref())).collect()
    }

    /// Why servers were lost since this was asked.
    pub(super) fn newly_lost(&self) -> Vec<String> {
        std::mem::take(&mut self.state().lost)
    }

    /// Asks one server, and another when that one is gone or too busy.
    ///
    /// # Errors
    /// The request is refused, the server misbehaves, or no server is left.
    pub(super) fn ask<T>(
        &self,
        work: Work,
        ask: impl Fn(&dyn Server) -> std::result::Result<T, Failure>,
    ) -> std::result::Result<T, Failure> {
        let mut asked = vec![false; self.servers.len()];
        let mut last = None;
        while let Some(i) = self.enter(work, &asked) {
            asked[i] = true;
            let found = ask(self.servers[i].as_ref());
            let lost = match &found {
                Err(Failure::Gone(why)) => Some(why.as_str()),
                _ => None,
            };
            self.leave(i, lost);
            match found {
                Err(failure @ (Failure::Gone(_) | Failure::Refused(429 | 502..=504, _))) => last = Some(failure),
                found => return found,
            }
        }
        Err(last.unwrap_or_else(|| Failure::Gone("no server is left".into())))
    }

    /// Waits for room at a server that was not asked yet; `None` when there is none.
    fn enter(&self, work: Work, asked: &[bool]) -> Option<usize> {
        let mut state = self.state();
        loop {
            let mut there = (0..self.servers.len())
                .filter(|i| !asked[*i])
                .filter_map(|i| Some((i, state.under_way[i]?)))
                .peekable();
            there.peek()?;
            let has_room = |(i, under_way): &(usize, usize)| *under_way < self.limit(self.servers[*i].as_ref(), work);
            if let Some((i, under_way)) = there.filter(has_room).min_by_key(|(_, under_way)| *under_way) {
                state.under_way[i] = Some(under_way + 1);
                return Some(i);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The server at an address is not asked any more, when there are others. True: there are.
    pub(super) fn lose(&self, url: &str, why: &str) -> bool {
        let found = self.urls.iter().position(|own| own == url);
        found.is_some_and(|i| self.state().lose(i, why, &self.patience) > 0)
    }

    fn leave(&self, i: usize, lost: Option<&str>) {
        let mut state = self.state();
        match (state.under_way[i], lost) {
            (Some(_), Some(why)) => drop(state.lose(i, why, &self.patience)),
            (Some(n), None) => state.under_way[i] = Some(n.saturating_sub(1)),
            (None, _) => {}
        }
        self.changed.notify_all();
    }

    fn limit(&self, server: &dyn Server, work: Work) -> usize {
        match work {
            Work::Write => self.concurrency.unwrap_or_else(|| server.slots()).max(1),
            Work::Score => self.concurrency.unwrap_or_else(|| server.slots()).min(server.scoring()).max(1),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An identity without the directories of its files, which differ between machines.
fn names(identity: &str) -> Vec<&str> {
    identity.split(' ').map(|word| word.rsplit(['/', '\\']).next().unwrap_or(word)).collect()
}
