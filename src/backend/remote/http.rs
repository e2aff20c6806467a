//! JSON over HTTP to one server: bounded in time and in size, tried again where that may help.

use std::error::Error as _;
use std::io::{ErrorKind, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::config::RemoteConfig;
use crate::error::{Error, Result};
use crate::shown::plain;

/// Bytes of an answer: 128 positions with all probabilities of a large vocabulary.
const MOST_BYTES: u64 = 1 << 30;
/// Times that a request is sent, and the first pause between them, which doubles.
const TRIES: u32 = 6;
/// Times that it is sent where another server can be asked.
const FEW_TRIES: u32 = 2;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause that a server may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Connections that are kept for the next request.
const IDLE: usize = 256;
/// How long a connection may take to be made.
const CONNECTING: Duration = Duration::from_secs(10);
/// Characters of a server's own words in a message.
const SHOWN: usize = 300;

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The server refuses this request: its status and its words.
    Refused(u16, String),
    /// There is no server, or none that answers in time. Another may.
    Gone(String),
    /// It answers what it must not.
    Wrong(String),
}

impl Failure {
    /// Why, in words.
    pub(super) fn why(&self) -> String {
        match self {
            Self::Refused(status, words) => format!("the server answered {status}: {words}"),
            Self::Gone(why) | Self::Wrong(why) => why.clone(),
        }
    }
}

/// How often a request is sent: often to the only server that is left, and a few times where another can be asked.
#[derive(Clone)]
pub(super) struct Patience(Arc<AtomicU32>);

impl Patience {
    /// For this number of servers.
    pub(super) fn with(servers: usize) -> Self {
        let patience = Self(Arc::new(AtomicU32::new(0)));
        patience.left(servers);
        patience
    }

    /// This number of servers is left.
    pub(super) fn left(&self, servers: usize) {
        self.0.store(if servers > 1 { FEW_TRIES } else { TRIES }, Ordering::Relaxed);
    }

    fn tries(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A server.
pub(super) struct Client {
    agent: ureq::Agent,
    url: String,
    key: Option<String>,
    timeout: Duration,
    patience: Patience,
}

/// What an answer is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Json,
    Words,
}

/// What one try comes to.
enum Tried {
    Answer(Value),
    /// It may go well the next time, after this pause if the server names one.
    Again(Failure, Option<Duration>),
    Never(Failure),
}

impl Client {
    /// Of a project's server at this address. The key is read from the environment.
    ///
    /// # Errors
    /// The variable of the key is not set.
    pub(super) fn new(config: &RemoteConfig, url: &str, patience: &Patience) -> Result<Self> {
        let key = config.api_key_env.as_deref().map(|name| {
            std::env::var(name).ok().filter(|key| !key.is_empty()).ok_or_else(|| {
                Error::Usage(format!(
                    "[backend] api_key_env names {name}, and this variable is not set; export it with the server's key"
                ))
            })
        });
        // A server that sends elsewhere is another server.
        let timeout = Duration::from_secs_f64(config.timeout);
        let agent = ureq::AgentBuilder::new()
            .redirects(0)
            .timeout_connect(CONNECTING)
            .timeout(timeout)
            .max_idle_connections(IDLE)
            .max_idle_connections_per_host(IDLE);
        Ok(Self {
            agent: agent.build(),
            timeout,
            url: url.to_owned(),
            key: key.transpose()?,
            patience: patience.clone(),
        })
    }

    /// The same server, asked once.
    pub(super) fn once(&self) -> Self {
        let patience = Patience(Arc::new(AtomicU32::new(1)));
        Self {
            agent: self.agent.clone(),
            url: self.url.clone(),
            key: self.key.clone(),
            timeout: self.timeout,
            patience,
        }
    }

    /// Where it is.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn get(&self, path: &str) -> Result<Value, Failure> {
        self.sent(path, None, Form::Json)
    }

    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.sent(path, Some(body), Form::Json)
    }

    /// Asks for something to be done, which a server may acknowledge in words.
    pub(super) fn order(&self, path: &str, body: &Value) -> Result<(), Failure> {
        self.sent(path, Some(body), Form::Words).map(|_| ())
    }

    fn sent(&self, path: &str, body: Option<&Value>, form: Form) -> Result<Value, Failure> {
        let mut pause = FIRST_PAUSE;
        let mut tried = 1;
        loop {
            match self.tried(path, body, form) {
                Tried::Answer(value) => return Ok(value),
                Tried::Never(failure) => return Err(failure),
                // The number is read anew: it grows when another server is lost.
                Tried::Again(failure, _) if tried >= self.patience.tries() => return Err(failure),
                Tried::Again(_, wanted) => std::thread::sleep(wanted.unwrap_or(pause).min(LONGEST_PAUSE)),
            }
            tried += 1;
            pause *= 2;
        }
    }

    fn tried(&self, path: &str, body: Option<&Value>, form: Form) -> Tried {
        let url = format!("{}{path}", self.url);
        let request = match body {
            Some(_) => self.agent.post(&url).set("Content-Type", "application/json"),
            None => self.agent.get(&url),
        };
        let request = match &self.key {
            Some(key) => request.set("Authorization", &format!("Bearer {key}")),
            None => request,
        };
        let sent = match body {
            Some(body) => request.send_string(&body.to_string()),
            None => request.call(),
        };
        match sent {
            Ok(response) if (200..300).contains(&response.status()) => self.read(response, form),
            Ok(response) => Tried::Never(self.elsewhere(&response)),
            Err(ureq::Error::Status(status, response)) => {
                let pause =
                    response.header("Retry-After").and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
                let failure = Failure::Refused(status, self.words(response));
                if matches!(status, 429 | 502 | 503 | 504) {
                    Tried::Again(failure, pause)
                } else {
                    Tried::Never(failure)
                }
            }
            Err(ureq::Error::Transport(error)) if late(&error) => Tried::Never(self.too_late()),
            Err(ureq::Error::Transport(error)) => {
                let failure = Failure::Gone(self.unreachable(&error));
                let lasting = matches!(
                    error.kind(),
                    ureq::ErrorKind::Dns
                        | ureq::ErrorKind::InvalidUrl
                        | ureq::ErrorKind::UnknownScheme
                        | ureq::ErrorKind::InsecureRequestHttpsOnly
                );
                if lasting { Tried::Never(failure) } else { Tried::Again(failure, None) }
            }
        }
    }

    fn read(&self, response: ureq::Response, form: Form) -> Tried {
        let mut bytes = Vec::new();
        if let Err(error) = response.into_reader().take(MOST_BYTES + 1).read_to_end(&mut bytes) {
            if error.kind() == ErrorKind::TimedOut {
                return Tried::Never(self.too_late());
            }
            return Tried::Again(Failure::Gone(format!("{}: the answer broke off: {error}", self.url)), None);
        }
        if bytes.len() as u64 > MOST_BYTES {
            return Tried::Never(Failure::Wrong(format!("{}: the answer has more than {MOST_BYTES} bytes", self.url)));
        }
        if form == Form::Words {
            return Tried::Answer(Value::Null);
        }
        match serde_json::from_slice(&bytes) {
            Ok(value) => Tried::Answer(value),
            Err(error) if bytes.is_empty() || error.is_eof() => Tried::Again(
                Failure::Gone(format!("{}: the answer broke off after {} bytes", self.url, bytes.len())),
                None,
            ),
            Err(_) => {
                let start = plain(&String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN)]), 80);
                Tried::Never(Failure::Wrong(format!(
                    "{}: expected JSON, got {start:?}; is this the server's address?",
                    self.url
                )))
            }
        }
    }

    /// What a server says of its refusal.
    fn words(&self, response: ureq::Response) -> String {
        let mut bytes = Vec::new();
        let _ = response.into_reader().take(1 << 16).read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let parsed: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        let said = [&parsed["error"]["message"], &parsed["message"], &parsed["detail"], &parsed["error"]];
        let said = said.into_iter().find_map(Value::as_str).unwrap_or(&text);
        let said = plain(said, SHOWN);
        // A server may repeat what it was sent.
        match &self.key {
            Some(key) => said.replace(key.as_str(), "…"),
            None => said,
        }
    }

    fn elsewhere(&self, response: &ureq::Response) -> Failure {
        let to = response.header("Location").map_or_else(String::new, |to| format!(" to {}", plain(to, 100)));
        Failure::Wrong(format!(
            "{} sends elsewhere{to} (status {}); give the address that it means",
            self.url,
            response.status()
        ))
    }

    fn too_late(&self) -> Failure {
        Failure::Gone(format!(
            "{} gave no answer within {} seconds; raise [backend] timeout, ask for less at once with concurrency, or lower max_tokens",
            self.url,
            self.timeout.as_secs_f64()
        ))
    }

    fn unreachable(&self, error: &ureq::Transport) -> String {
        let why = plain(&error.to_string().replace(&self.url, ""), 200);
        let hint = match error.kind() {
            ureq::ErrorKind::Dns => "; is the name right?",
            ureq::ErrorKind::ConnectionFailed if self.url.starts_with("https:") => {
                "; is the certificate one that this system trusts, and does the server speak https?"
            }
            ureq::ErrorKind::ConnectionFailed => "; is the server running?",
            ureq::ErrorKind::BadStatus | ureq::ErrorKind::BadHeader => "; does it speak http, or https?",
            _ => "",
        };
        format!("{} does not answer: {}{hint}", self.url, why.trim_start_matches([':', ' ', '/']))
    }
}

/// A request took longer than it may. A connection that is not made in time is none that was lost on the way.
fn late(error: &ureq::Transport) -> bool {
    let source = error.source().and_then(|source| source.downcast_ref::<std::io::Error>());
    error.kind() == ureq::ErrorKind::Io && source.is_some_and(|source| source.kind() == ErrorKind::TimedOut)
}
