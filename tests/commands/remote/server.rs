//! A server that answers from a formula, in the dialect of llama-server or of vLLM, and misbehaves as real ones do.
//!
//! The requests and answers are those that were recorded of llama-server and of vLLM 0.32.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use finetest::model::Tokenizer;
use serde_json::{Map, Value, json};

use crate::support::fixture;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Llama,
    Vllm,
}

/// What is wrong with a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// Base is answered by an adapter that is asked at the same time.
    MixesBatches,
    /// Base is answered by the adapter that was asked before it.
    MixesCaches,
    /// The prompt cache is used although it was switched off.
    UsesCache,
    /// The adapter changes nothing.
    NoEffect,
    /// Every third request is refused once, with a pause to wait for.
    Busy,
    /// The first answers break off.
    BreaksOff,
    /// It is gone after some requests.
    Dies,
    /// A page instead of JSON.
    Page,
    Elsewhere,
    /// Takes any model's name.
    AnyName,
    OtherTokenizer,
    /// Tells log-probabilities above 0.
    Impossible,
    /// Counts no adapter in the probabilities of given text.
    ForgetsInText,
    /// Wants a key.
    Locked,
    /// Given text of more than 20 probabilities is refused.
    FewProbabilities,
    /// One question cannot be answered.
    RefusesOne,
    /// Cuts prompts.
    Truncates,
}

pub(crate) const KEY: &str = "sk-secret-of-the-test";
/// Tokens that the formula knows, from this one on.
const FIRST: u32 = 20;
const TOKENS: u32 = 12;

struct State {
    dialect: Dialect,
    fault: Fault,
    tokenizer: Tokenizer,
    requests: AtomicUsize,
    refused: AtomicUsize,
    tuned_under_way: AtomicUsize,
    scoring: AtomicUsize,
    most_scoring: AtomicUsize,
    last_was_tuned: AtomicBool,
    dead: AtomicBool,
    bodies: Mutex<Vec<Value>>,
}

pub(crate) struct Server {
    pub(crate) url: String,
    state: Arc<State>,
}

impl Server {
    pub(crate) fn start(dialect: Dialect, fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let state = Arc::new(State {
            dialect,
            fault,
            tokenizer: Tokenizer::from_file(fixture("tokenizer/tokenizer.json")).expect("a tokenizer"),
            requests: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
            tuned_under_way: AtomicUsize::new(0),
            scoring: AtomicUsize::new(0),
            most_scoring: AtomicUsize::new(0),
            last_was_tuned: AtomicBool::new(false),
            dead: AtomicBool::new(false),
            bodies: Mutex::new(Vec::new()),
        });
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if shared.dead.load(Ordering::SeqCst) {
                    return;
                }
                let state = shared.clone();
                std::thread::spawn(move || state.serve(&stream));
            }
        });
        Self { url, state }
    }

    /// Requests that were answered.
    pub(crate) fn requests(&self) -> usize {
        self.state.requests.load(Ordering::SeqCst)
    }

    /// Texts that it was given at the same time, at most.
    pub(crate) fn most_scoring(&self) -> usize {
        self.state.most_scoring.load(Ordering::SeqCst)
    }

    /// What it was asked to complete.
    pub(crate) fn bodies(&self) -> Vec<Value> {
        self.state.bodies.lock().expect("no panic").clone()
    }
}

/// Log-probabilities after a text, the most likely first.
fn next(text: &[u32], tuned: bool) -> Vec<(u32, f64)> {
    let seed = text.iter().fold(7_u64, |hash, token| hash.wrapping_mul(31).wrapping_add(u64::from(*token)) % 1_000_003);
    let shift = if tuned { 0.9 } else { 0.0 };
    let weight =
        |i: u32| ((seed as f64 * 0.01 + f64::from(i) * 1.7).sin() * 3.0 + shift * (f64::from(i) * 2.3).cos()).exp();
    let all: f64 = (0..TOKENS).map(weight).sum();
    let mut top: Vec<(u32, f64)> = (0..TOKENS).map(|i| (FIRST + i, (weight(i) / all).ln())).collect();
    top.sort_by(|a, b| b.1.total_cmp(&a.1));
    top
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().expect("token ids").iter().map(|id| id.as_u64().expect("an id") as u32).collect()
}

impl State {
    fn serve(&self, stream: &TcpStream) {
        let mut reader = BufReader::new(stream);
        while let Some((line, headers, body)) = request(&mut reader) {
            if self.dead.load(Ordering::SeqCst) {
                return;
            }
            let n = self.requests.fetch_add(1, Ordering::SeqCst);
            if self.fault == Fault::Dies && n >= 76 {
                self.dead.store(true, Ordering::SeqCst);
                return;
            }
            let (status, more, text) = self.answer(&line, &headers, &body, n);
            let mut text = text.into_bytes();
            let length = text.len();
            let cut = self.fault == Fault::BreaksOff && n % 23 == 3;
            if cut {
                text.truncate(length / 2);
            }
            let head = format!(
                "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{more}Content-Length: {length}\r\n\r\n"
            );
            let mut out = stream;
            if out.write_all(head.as_bytes()).and_then(|()| out.write_all(&text)).is_err() || cut {
                return;
            }
        }
    }

    /// Status, further headers, and the text.
    fn answer(&self, line: &str, headers: &str, body: &Value, n: usize) -> (u16, String, String) {
        let json = |value: Value| (200, String::new(), value.to_string());
        let error = |status: u16, words: &str| {
            (status, String::new(), json!({"error": {"message": words, "code": status}}).to_string())
        };
        match self.fault {
            Fault::Page => return (200, String::new(), "<html><body>It works!\u{1b}[31m</body></html>".into()),
            Fault::Elsewhere => return (302, "Location: http://elsewhere.example/\r\n".into(), String::new()),
            Fault::Locked if !headers.contains(&format!("Bearer {KEY}")) => {
                return error(401, &format!("wrong key in {headers:.0}"));
            }
            Fault::Busy if n % 3 == 1 && self.refused.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) => {
                return (429, "Retry-After: 0\r\n".into(), json!({"error": {"message": "too many"}}).to_string());
            }
            _ => {}
        }
        let path = line.split(' ').nth(1).unwrap_or_default();
        match (self.dialect, path) {
            (Dialect::Llama, "/props") => json(
                json!({"default_generation_settings": {"n_ctx": 256}, "total_slots": 4, "model_path": "m/tiny.gguf", "build_info": "b1-test"}),
            ),
            (Dialect::Llama, "/lora-adapters") => json(
                json!([{"id": 0, "path": "m/other.gguf", "scale": 1.0}, {"id": 3, "path": "m/diagnostics.gguf", "scale": 1.0}]),
            ),
            (Dialect::Vllm, "/version") => json(json!({"version": "0.32.0"})),
            (Dialect::Vllm, "/v1/models") => json(json!({"data": [
                {"id": "base", "root": "m/base", "parent": null, "max_model_len": 256},
                {"id": "diagnostics", "root": "m/d", "parent": "base"},
                {"id": "stranger", "root": "m/s", "parent": "other"},
            ]})),
            (_, "/tokenize") => {
                let text = body.get("content").or_else(|| body.get("prompt")).and_then(Value::as_str).expect("a text");
                let mut tokens = self.tokenizer.encode(text, true).expect("tokens");
                if self.fault == Fault::OtherTokenizer {
                    tokens.push(1);
                }
                json(json!({"tokens": tokens}))
            }
            (Dialect::Llama, "/completion") | (Dialect::Vllm, "/v1/completions") => match self.completed(body) {
                Ok(answer) => json(answer),
                Err((status, words)) => error(status, &words),
            },
            _ => error(404, "there is no such thing"),
        }
    }

    fn completed(&self, body: &Value) -> Result<Value, (u16, String)> {
        self.bodies.lock().expect("no panic").push(body.clone());
        let tuned = match self.dialect {
            // A number that is left out would stay as the server was started: applied.
            Dialect::Llama => {
                let scale = |id: u64| {
                    body["lora"]
                        .as_array()
                        .and_then(|all| all.iter().find(|a| a["id"] == id))
                        .map_or(1.0, |a| a["scale"].as_f64().expect("a scale"))
                };
                assert_eq!(scale(0), 0.0, "another adapter is applied");
                scale(3) > 0.0
            }
            Dialect::Vllm => match body["model"].as_str() {
                Some("base") => false,
                Some("diagnostics") => true,
                _ if self.fault == Fault::AnyName => false,
                name => return Err((404, format!("The model {name:?} does not exist."))),
            },
        };
        let prompt = ids(&body["prompt"]);
        let long = body["max_tokens"].as_u64().or(body["n_predict"].as_u64()).unwrap_or(0) > 1;
        let asked = || self.tokenizer.decode(&prompt, false).expect("a text");
        if self.fault == Fault::RefusesOne && long && asked().contains("longer") {
            return Err((400, "this prompt is not liked".into()));
        }
        if tuned {
            self.tuned_under_way.fetch_add(1, Ordering::SeqCst);
        }
        std::thread::sleep(Duration::from_millis(if self.fault == Fault::MixesBatches { 8 } else { 1 }));
        let beside = self.tuned_under_way.load(Ordering::SeqCst) > 0;
        let before = self.last_was_tuned.swap(tuned, Ordering::SeqCst);
        if tuned {
            self.tuned_under_way.fetch_sub(1, Ordering::SeqCst);
        }
        let applied = match self.fault {
            Fault::NoEffect => false,
            Fault::MixesBatches => tuned || beside,
            Fault::MixesCaches => tuned || before,
            _ => tuned,
        };
        match self.dialect {
            Dialect::Llama => self.of_llama(body, prompt, applied),
            Dialect::Vllm => self.of_vllm(body, prompt, applied),
        }
    }

    fn of_llama(&self, body: &Value, prompt: Vec<u32>, applied: bool) -> Result<Value, (u16, String)> {
        let (n, k) = (
            body["n_predict"].as_u64().expect("a number") as usize,
            body["n_probs"].as_u64().expect("a number") as usize,
        );
        let forced: Option<Vec<u32>> = body["grammar"].as_str().map(|rule| {
            let ids = rule.split(['<', '[', ']', '>']).filter_map(|part| part.trim().parse().ok());
            ids.collect()
        });
        if forced.as_ref().is_some_and(|tokens| tokens.contains(&(FIRST + 5))) {
            // As of a token that is a part of a character.
            return Err((500, "empty grammar stack".into()));
        }
        let applied = applied && !(forced.is_some() && self.fault == Fault::ForgetsInText);
        let (mut text, mut tokens, mut probabilities) = (prompt.clone(), Vec::new(), Vec::new());
        for i in 0..n {
            let mut top = next(&text, applied);
            let token = forced.as_ref().and_then(|tokens| tokens.get(i).copied()).unwrap_or(top[0].0);
            let own = top.iter().find(|(id, _)| *id == token).map_or(-12.0, |(_, p)| *p)
                + if self.fault == Fault::Impossible { 20.0 } else { 0.0 };
            // A vocabulary has more tokens than the formula knows.
            top.extend((40..400).map(|id| (id, -30.0)));
            if !top.iter().any(|(id, _)| *id == token) {
                top.push((token, -12.0));
            }
            top.truncate(k);
            let top: Vec<Value> = top.iter().map(|(id, p)| json!({"id": id, "token": "x", "logprob": p})).collect();
            probabilities.push(json!({"id": token, "token": "x", "logprob": own, "top_logprobs": top}));
            tokens.push(token);
            text.push(token);
        }
        Ok(json!({
            "content": "x", "tokens": tokens, "stop_type": "limit", "tokens_evaluated": prompt.len(),
            "truncated": self.fault == Fault::Truncates,
            "timings": {"cache_n": if self.fault == Fault::UsesCache { 9 } else { 0 }, "prompt_n": prompt.len()},
            "completion_probabilities": probabilities,
        }))
    }

    fn of_vllm(&self, body: &Value, prompt: Vec<u32>, applied: bool) -> Result<Value, (u16, String)> {
        let named = |top: &[(u32, f64)]| -> Map<String, Value> {
            top.iter().map(|(id, p)| (format!("token_id:{id}"), json!(p))).collect()
        };
        let mut choice = json!({"text": "x", "finish_reason": "length"});
        if let Some(k) = body["prompt_logprobs"].as_u64() {
            if self.fault == Fault::FewProbabilities && k > 20 {
                return Err((400, format!("Requested prompt logprobs of {k}, which is greater than max allowed: 20")));
            }
            let at_once = self.scoring.fetch_add(1, Ordering::SeqCst) + 1;
            self.most_scoring.fetch_max(at_once, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(2));
            self.scoring.fetch_sub(1, Ordering::SeqCst);
            let position = |i: usize| {
                if i == 0 {
                    return Value::Null;
                }
                let mut top = next(&prompt[..i], applied && self.fault != Fault::ForgetsInText);
                let own = top.iter().find(|(id, _)| *id == prompt[i]).map_or(-12.0, |(_, p)| *p);
                top.truncate(k as usize);
                if !top.iter().any(|(id, _)| *id == prompt[i]) {
                    top.push((prompt[i], own));
                }
                let told = |(id, p): &(u32, f64)| {
                    (
                        id.to_string(),
                        json!({"logprob": if self.fault == Fault::Impossible { p + 20.0 } else { *p }, "rank": 1}),
                    )
                };
                Value::Object(top.iter().map(told).collect())
            };
            choice["prompt_logprobs"] = (0..prompt.len()).map(position).collect();
        }
        let (n, k) = (body["max_tokens"].as_u64().expect("a number"), body["logprobs"].as_u64().unwrap_or(0) as usize);
        let (mut text, mut tokens, mut tops) = (prompt, Vec::new(), Vec::new());
        for _ in 0..n {
            let mut top = next(&text, applied);
            tokens.push(top[0].0);
            text.push(top[0].0);
            top.truncate(k);
            tops.push(Value::Object(named(&top)));
        }
        choice["token_ids"] = json!(tokens);
        choice["logprobs"] = json!({"top_logprobs": tops});
        Ok(json!({"choices": [choice], "usage": {}}))
    }
}

/// A request: its first line, its headers and its body.
fn request(reader: &mut BufReader<&TcpStream>) -> Option<(String, String, Value)> {
    let (mut line, mut headers, mut length) = (String::new(), String::new(), 0);
    reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok().filter(|n| *n > 0)?;
        if header.trim().is_empty() {
            break;
        }
        if let Some(n) = header.to_ascii_lowercase().strip_prefix("content-length:") {
            length = n.trim().parse().ok()?;
        }
        headers.push_str(&header);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((line, headers, serde_json::from_slice(&body).unwrap_or(Value::Null)))
}
