//! JSON over HTTP to one server: bounded in time and in size, tried again where that may help.

use std::io::Read;
use std::time::Duration;

use serde_json::Value;

use crate::config::RemoteConfig;
use crate::error::{Error, Result};
use crate::shown::plain;

/// Bytes of an answer: 128 positions with all probabilities of a large vocabulary.
const MOST_BYTES: u64 = 1 << 30;
/// Times that a request is sent, and the first pause between them, which doubles.
const TRIES: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause that a server may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long a connection may take to be made.
const CONNECTING: Duration = Duration::from_secs(10);
/// Characters of a server's own words in a message.
const SHOWN: usize = 300;

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The server refuses this request: its status and its words.
    Refused(u16, String),
    /// There is no server, or it does not speak JSON.
    Gone(String),
}

impl Failure {
    /// Why, in words.
    pub(super) fn why(&self) -> String {
        match self {
            Self::Refused(status, words) => format!("the server answered {status}: {words}"),
            Self::Gone(why) => why.clone(),
        }
    }
}

/// A server.
pub(super) struct Client {
    agent: ureq::Agent,
    url: String,
    key: Option<String>,
    /// How often it is tried; a probe is not.
    tries: u32,
}

/// What one try comes to.
enum Tried {
    Answer(Value),
    /// It may go well the next time, after this pause if the server names one.
    Again(Failure, Option<Duration>),
    Never(Failure),
}

impl Client {
    /// Of a project's server. The key is read from the environment.
    ///
    /// # Errors
    /// The variable of the key is not set.
    pub(super) fn new(config: &RemoteConfig) -> Result<Self> {
        let key = config.api_key_env.as_deref().map(|name| {
            std::env::var(name).ok().filter(|key| !key.is_empty()).ok_or_else(|| {
                Error::Usage(format!(
                    "[backend] api_key_env names {name}, and this variable is not set; export it with the server's key"
                ))
            })
        });
        // A server that sends elsewhere is another server.
        let agent = ureq::AgentBuilder::new()
            .redirects(0)
            .timeout_connect(CONNECTING)
            .timeout(Duration::from_secs_f64(config.timeout));
        Ok(Self { agent: agent.build(), url: config.url.clone(), key: key.transpose()?, tries: TRIES })
    }

    /// The same server, asked once.
    pub(super) fn once(&self) -> Self {
        Self { agent: self.agent.clone(), url: self.url.clone(), key: self.key.clone(), tries: 1 }
    }

    /// Where it is.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn get(&self, path: &str) -> Result<Value, Failure> {
        self.sent(path, None)
    }

    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.sent(path, Some(body))
    }

    fn sent(&self, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let mut pause = FIRST_PAUSE;
        let mut last = None;
        for n in 1..=self.tries {
            match self.tried(path, body) {
                Tried::Answer(value) => return Ok(value),
                Tried::Never(failure) => return Err(failure),
                Tried::Again(failure, wanted) => {
                    last = Some(failure);
                    if n < self.tries {
                        std::thread::sleep(wanted.unwrap_or(pause).min(LONGEST_PAUSE));
                    }
                    pause *= 2;
                }
            }
        }
        Err(last.unwrap_or_else(|| Failure::Gone(format!("{} was not asked", self.url))))
    }

    fn tried(&self, path: &str, body: Option<&Value>) -> Tried {
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
            Ok(response) if (200..300).contains(&response.status()) => self.read(response),
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

    fn read(&self, response: ureq::Response) -> Tried {
        let mut bytes = Vec::new();
        if let Err(error) = response.into_reader().take(MOST_BYTES + 1).read_to_end(&mut bytes) {
            return Tried::Again(Failure::Gone(format!("{}: the answer broke off: {error}", self.url)), None);
        }
        if bytes.len() as u64 > MOST_BYTES {
            return Tried::Never(Failure::Gone(format!("{}: the answer has more than {MOST_BYTES} bytes", self.url)));
        }
        match serde_json::from_slice(&bytes) {
            Ok(value) => Tried::Answer(value),
            Err(error) if bytes.is_empty() || error.is_eof() => Tried::Again(
                Failure::Gone(format!("{}: the answer broke off after {} bytes", self.url, bytes.len())),
                None,
            ),
            Err(_) => {
                let start = plain(&String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN)]), 80);
                Tried::Never(Failure::Gone(format!(
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
        Failure::Gone(format!(
            "{} sends elsewhere{to} (status {}); give the address that it means",
            self.url,
            response.status()
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
