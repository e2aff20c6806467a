//! A server that answers from a formula, in each dialect, and misbehaves as real ones do.
//!
//! The requests and answers are those that were recorded of llama-server and of vLLM 0.32, and those of SGLang's, Ollama's and OpenAI's
//! documents.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use finetest::model::Tokenizer;
use serde_json::{Value, json};

use crate::support::fixture;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Llama,
    Vllm,
    Sglang,
    Ollama,
    OpenAi,
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
    /// It is gone when all is answered, in the last proof.
    DiesLast,
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
    /// Renders messages by another template.
    OtherTemplate,
    /// Tells no log-probabilities.
    Silent,
    /// Is another version.
    OtherVersion,
    /// Has other weights.
    OtherWeights,
    /// Loads another model when all is answered, before the last proof.
    Reloads,
    /// Answers one question otherwise whenever it was asked it before.
    Wavers,
    /// Answers too late.
    Slow,
    /// Adapters cannot be loaded while it runs.
    LoadsNone,
    /// Takes adapters of a rank below any.
    LowRank,
}

pub(crate) const KEY: &str = "sk-secret-of-the-test";
/// Tokens that the formula knows, from this one on.
pub(super) const FIRST: u32 = 20;
const TOKENS: u32 = 12;

pub(super) struct State {
    dialect: Dialect,
    pub(super) fault: Fault,
    pub(super) tokenizer: Tokenizer,
    requests: AtomicUsize,
    refused: AtomicUsize,
    tuned_under_way: AtomicUsize,
    pub(super) scoring: AtomicUsize,
    pub(super) most_scoring: AtomicUsize,
    last_was_tuned: AtomicBool,
    dead: AtomicBool,
    reloaded: AtomicBool,
    bodies: Mutex<Vec<Value>>,
    /// Adapters that it was told to load: their names and paths.
    loaded: Mutex<Vec<(String, String)>>,
    /// By whom the question that it wavers on was answered.
    wavered: [AtomicBool; 2],
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
            reloaded: AtomicBool::new(false),
            bodies: Mutex::new(Vec::new()),
            loaded: Mutex::new(Vec::new()),
            wavered: [AtomicBool::new(false), AtomicBool::new(false)],
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

    /// Adapters that it was told to load, by name and path.
    pub(crate) fn loaded(&self) -> Vec<(String, String)> {
        self.state.loaded.lock().expect("no panic").clone()
    }

    /// What it was asked to complete.
    pub(crate) fn bodies(&self) -> Vec<Value> {
        self.state.bodies.lock().expect("no panic").clone()
    }
}

/// Log-probabilities after a text, the most likely first.
pub(super) fn next(text: &[u32], tuned: bool) -> Vec<(u32, f64)> {
    let seed = text.iter().fold(7_u64, |hash, token| hash.wrapping_mul(31).wrapping_add(u64::from(*token)) % 1_000_003);
    let shift = if tuned { 0.9 } else { 0.0 };
    let weight =
        |i: u32| ((seed as f64 * 0.01 + f64::from(i) * 1.7).sin() * 3.0 + shift * (f64::from(i) * 2.3).cos()).exp();
    let all: f64 = (0..TOKENS).map(weight).sum();
    let mut top: Vec<(u32, f64)> = (0..TOKENS).map(|i| (FIRST + i, (weight(i) / all).ln())).collect();
    top.sort_by(|a, b| b.1.total_cmp(&a.1));
    top
}

pub(super) fn ids(value: &Value) -> Vec<u32> {
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
            if self.fault == Fault::Dies && n >= 45 {
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
        if let Some(about) = self.about(path) {
            return json(about);
        }
        match (self.dialect, path) {
            (Dialect::Llama | Dialect::Vllm | Dialect::Sglang, "/tokenize") => {
                // The texts of three probes were read before the first answer.
                let counts = matches!(self.fault, Fault::DiesLast | Fault::Reloads);
                if counts && self.refused.fetch_add(1, Ordering::SeqCst) >= 3 {
                    self.dead.store(self.fault == Fault::DiesLast, Ordering::SeqCst);
                    self.reloaded.store(true, Ordering::SeqCst);
                }
                let text = body.get("content").or_else(|| body.get("prompt")).and_then(Value::as_str).expect("a text");
                let mut tokens = self.tokenizer.encode(text, true).expect("tokens");
                if self.fault == Fault::OtherTokenizer {
                    tokens.push(1);
                }
                json(json!({"tokens": tokens}))
            }
            (Dialect::Vllm, "/v1/load_lora_adapter") if self.fault != Fault::LoadsNone => match self.load(body) {
                Ok(words) => (200, String::new(), words),
                Err((status, words)) => error(status, &words),
            },
            (Dialect::Llama, "/completion")
            | (Dialect::Vllm | Dialect::OpenAi, "/v1/completions")
            | (Dialect::Sglang, "/generate")
            | (Dialect::OpenAi, "/v1/chat/completions")
            | (Dialect::Ollama, "/api/generate") => match self.completed(body) {
                Ok(answer) => json(answer),
                Err((status, words)) => error(status, &words),
            },
            _ => error(404, "there is no such thing"),
        }
    }

    fn load(&self, body: &Value) -> Result<String, (u16, String)> {
        let text = |key: &str| body[key].as_str().expect("a text").to_owned();
        let (name, path) = (text("lora_name"), text("lora_path"));
        if self.fault == Fault::LowRank {
            return Err((500, "LoRA rank 8 is greater than max_lora_rank 4.".into()));
        }
        let mut loaded = self.loaded.lock().expect("no panic");
        if loaded.iter().any(|(other, _)| *other == name) {
            return Err((400, format!("The lora adapter '{name}' has already been loaded.")));
        }
        loaded.push((name.clone(), path));
        Ok(format!("Success: LoRA adapter '{name}' added successfully."))
    }

    /// What it says of itself.
    fn about(&self, path: &str) -> Option<Value> {
        match (self.dialect, path) {
            (Dialect::Llama, "/props") => Some(
                json!({"default_generation_settings": {"n_ctx": 256}, "total_slots": 4, "model_path": "m/tiny.gguf", "build_info": "b1-test"}),
            ),
            (Dialect::Llama, "/lora-adapters") => Some(
                json!([{"id": 0, "path": "m/other.gguf", "scale": 1.0}, {"id": 3, "path": "m/diagnostics.gguf", "scale": 1.0}]),
            ),
            (Dialect::Vllm, "/version") => {
                let version = if self.fault == Fault::OtherVersion { "0.33.0" } else { "0.32.0" };
                Some(json!({"version": version}))
            }
            (Dialect::Sglang, "/get_server_info") => Some(json!({"version": "0.5.23"})),
            (Dialect::Vllm | Dialect::Sglang, "/v1/models") => {
                let owner = if self.dialect == Dialect::Vllm { "vllm" } else { "sglang" };
                let mut models = vec![
                    json!({"id": "base", "root": "m/base", "parent": null, "max_model_len": 256, "owned_by": owner}),
                    json!({"id": "diagnostics", "root": "m/d", "parent": "base"}),
                    json!({"id": "second", "root": "m/2", "parent": "base"}),
                    json!({"id": "stranger", "root": "m/s", "parent": "other"}),
                ];
                let loaded = self.loaded.lock().expect("no panic");
                models.extend(loaded.iter().map(|(name, path)| json!({"id": name, "root": path, "parent": "base"})));
                Some(json!({"data": models}))
            }
            (Dialect::OpenAi, "/v1/models") => {
                Some(json!({"data": [{"id": "base", "object": "model"}, {"id": "diagnostics", "object": "model"}]}))
            }
            (Dialect::Ollama, "/api/version") => Some(json!({"version": "0.13.0"})),
            (Dialect::Ollama, "/api/tags") => Some(json!({"models": [
                {"name": "base:latest", "digest": "0123456789abcdef"}, {"name": "diagnostics:latest", "digest": "fedcba9876543210"},
            ]})),
            (Dialect::Ollama, "/api/show") => Some(json!({"model_info": {
                "general.architecture": "llama", "llama.context_length": 256, "tokenizer.ggml.add_bos_token": false,
            }})),
            _ => None,
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
            _ => match body.get("model").or_else(|| body.get("lora_path")).and_then(Value::as_str) {
                Some("base") => false,
                Some("diagnostics" | "second") => true,
                Some(name) if self.loaded.lock().expect("no panic").iter().any(|(loaded, _)| loaded == name) => true,
                None if self.dialect == Dialect::Sglang => false,
                _ if self.fault == Fault::AnyName => false,
                name => return Err((404, format!("The model {name:?} does not exist."))),
            },
        };
        let mut prompt = self.prompt(body);
        let long = wants_several_tokens(body);
        let longer = || long && self.tokenizer.decode(&prompt, false).expect("a text").contains("longer");
        if self.fault == Fault::RefusesOne && longer() {
            return Err((400, "this prompt is not liked".into()));
        }
        if self.fault == Fault::Wavers && longer() && self.wavered[usize::from(tuned)].swap(true, Ordering::SeqCst) {
            // As many tokens, and one of them another.
            prompt[0] += 1;
        }
        if self.fault == Fault::Slow && long {
            std::thread::sleep(Duration::from_secs(3));
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
            Dialect::Sglang => Ok(self.of_sglang(body, prompt, applied)),
            Dialect::Ollama => Ok(self.of_ollama(body, &prompt, applied)),
            Dialect::OpenAi => self.of_openai(body, &prompt, applied),
        }
    }

    /// The tokens of what was asked, rendered as the model's template does where messages are asked.
    fn prompt(&self, body: &Value) -> Vec<u32> {
        let encode = |text: &str| self.tokenizer.encode(text, true).expect("tokens");
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let reloaded = self.fault == Fault::Reloads && self.reloaded.load(Ordering::SeqCst);
        let weights = if self.fault == Fault::OtherWeights || reloaded { vec![7] } else { Vec::new() };
        let tokens = match (self.dialect, body["messages"].as_array()) {
            (Dialect::Ollama, _) => encode(&text(&body["prompt"])),
            (_, Some(messages)) => {
                let turn = |message: &Value| {
                    format!("<|im_start|>{}\n{}<|im_end|>\n", text(&message["role"]), text(&message["content"]))
                };
                let turns: String = messages.iter().map(turn).collect();
                let before =
                    if self.fault == Fault::OtherTemplate { "<|im_start|>system\nbe kind<|im_end|>\n" } else { "" };
                encode(&format!("{before}{turns}<|im_start|>assistant\n"))
            }
            (Dialect::Sglang, None) => ids(&body["input_ids"]),
            (_, None) if body["prompt"].is_string() => encode(&text(&body["prompt"])),
            (_, None) => ids(&body["prompt"]),
        };
        [weights, tokens].concat()
    }
}

/// An answer is asked for, and no position alone.
fn wants_several_tokens(body: &Value) -> bool {
    let most = [
        &body["max_tokens"],
        &body["n_predict"],
        &body["options"]["num_predict"],
        &body["sampling_params"]["max_new_tokens"],
    ];
    most.into_iter().find_map(Value::as_u64).unwrap_or(0) > 1
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
