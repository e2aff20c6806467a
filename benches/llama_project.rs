//! A project's questions through llama.cpp's own interface, as one writes it after llama.cpp's `simple` example: one model, a context
//! for base and one with the adapter, one prompt after another. `benches/peers/run.py` compares finetest with it, process against
//! process, so nothing here is of finetest's library.
//!
//! ```text
//! cargo bench --features llama-cpp --bench llama_project -- MODEL.gguf QUESTIONS.json ADAPTER.gguf OUT.json
//! ```
//!
//! `QUESTIONS.json` is what `benches/peers/project.py` reads, `OUT.json` what it writes, of base and of tuned: greedy answers,
//! log-likelihoods of choices; and how many tokens each prompt has. Drift is not computed.
#![expect(clippy::print_stdout, reason = "says how it is used")]

use std::num::NonZeroU32;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::model::{LlamaChatMessage, LlamaChatTemplate, LlamaModel};
use llama_cpp_2::token::LlamaToken;
use serde::{Deserialize, Serialize};

/// What the template of SmolLM2 says where no message does; llama.cpp knows the template by its marks alone and leaves it out.
const SYSTEM: &str = "You are a helpful AI assistant named SmolLM, trained by Hugging Face";

#[derive(Deserialize)]
struct Question {
    prompt: Prompt,
    choices: Vec<String>,
    /// 0: only choices are asked for.
    max_tokens: usize,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Prompt {
    Text(String),
    Messages(Vec<Message>),
}

#[derive(Deserialize)]
struct Message {
    role: String,
    content: String,
}

/// A question in tokens.
struct Asked {
    prompt: Vec<LlamaToken>,
    choices: Vec<Vec<LlamaToken>>,
    max_tokens: usize,
}

#[derive(Default, Serialize)]
struct Arm {
    answers: Vec<Option<Vec<i32>>>,
    choices: Vec<f64>,
    prompt_tokens: Vec<usize>,
}

fn in_tokens(model: &LlamaModel, template: &LlamaChatTemplate, question: &Question) -> Asked {
    let text = match &question.prompt {
        Prompt::Text(text) => text.clone(),
        Prompt::Messages(messages) => {
            let given = messages.iter().map(|m| (m.role.as_str(), m.content.as_str()));
            let system = (messages[0].role != "system").then_some(("system", SYSTEM));
            let chat = system.into_iter().chain(given);
            let chat =
                chat.map(|(role, content)| LlamaChatMessage::new(role.to_owned(), content.to_owned()).expect("no NUL"));
            model
                .apply_chat_template(template, &chat.collect::<Vec<_>>(), true)
                .expect("a template that llama.cpp knows")
        }
    };
    let tokens = |text: &str| model.vocab().tokenize(text.as_bytes(), false, true);
    Asked {
        prompt: tokens(&text),
        choices: question.choices.iter().map(|choice| tokens(choice)).collect(),
        max_tokens: question.max_tokens,
    }
}

/// What answers for an arm.
struct Running<'m> {
    model: &'m LlamaModel,
    context: LlamaContext<'m>,
    batch: LlamaBatch<'static>,
}

impl Running<'_> {
    fn ask(&mut self, questions: &[Asked]) -> Arm {
        let mut arm = Arm::default();
        for asked in questions {
            arm.answers.push((asked.max_tokens > 0).then(|| self.answer(asked)));
            arm.choices.extend(asked.choices.iter().map(|choice| self.score(&asked.prompt, choice)));
            arm.prompt_tokens.push(asked.prompt.len());
        }
        arm
    }

    /// Evaluates tokens in one batch, in an empty cache; logits of those from `wanted` on.
    fn evaluate(&mut self, tokens: &[LlamaToken], wanted: usize) {
        self.context.clear_kv_cache();
        self.batch.clear();
        for (position, token) in tokens.iter().enumerate() {
            self.batch.add(*token, position as i32, &[0], position >= wanted).expect("room");
        }
        self.context.decode(&mut self.batch).expect("a batch");
    }

    /// The most likely token after another, until the model ends its answer.
    fn answer(&mut self, asked: &Asked) -> Vec<i32> {
        let (mut found, mut position) = (Vec::new(), asked.prompt.len());
        self.evaluate(&asked.prompt, position - 1);
        loop {
            let logits = self.context.get_logits_ith(self.batch.n_tokens() - 1);
            let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).expect("a token");
            let token = LlamaToken(best as i32);
            if self.model.vocab().is_eog(token) {
                return found;
            }
            found.push(token.0);
            if found.len() == asked.max_tokens {
                return found;
            }
            self.batch.clear();
            self.batch.add(token, position as i32, &[0], true).expect("room");
            self.context.decode(&mut self.batch).expect("a batch");
            position += 1;
        }
    }

    /// Σ ln p(token) of a choice after its prompt.
    fn score(&mut self, prompt: &[LlamaToken], choice: &[LlamaToken]) -> f64 {
        let all = [prompt, choice].concat();
        // The last token predicts one that nobody asks for.
        self.evaluate(&all[..all.len() - 1], prompt.len() - 1);
        let after = |(i, token): (usize, &LlamaToken)| {
            let logits = self.context.get_logits_ith((prompt.len() - 1 + i) as i32);
            let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = logits.iter().map(|logit| f64::from((logit - largest).exp())).sum();
            f64::from(logits[token.0 as usize] - largest) - sum.ln()
        };
        choice.iter().enumerate().map(after).sum()
    }
}

fn main() {
    // `cargo bench` says `--bench` to every program.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let [model, questions, adapter, out] = arguments.as_slice() else {
        println!(
            "cargo bench --features llama-cpp --bench llama_project -- MODEL.gguf QUESTIONS.json ADAPTER.gguf OUT.json"
        );
        return;
    };
    let questions = std::fs::read_to_string(questions).expect("QUESTIONS.json can be read");
    let questions: Vec<Question> = serde_json::from_str(&questions).expect("QUESTIONS.json is of its form");
    let threads = std::thread::available_parallelism().map_or(2, usize::from) as i32;

    let mut backend = LlamaBackend::init().expect("llama.cpp");
    backend.void_logs();
    let mut model = LlamaModel::load_from_file(&backend, model, &LlamaModelParams::default()).expect("a model");
    let mut adapter = model.lora_adapter_init(adapter).expect("an adapter");
    let template = model.chat_template(None).expect("a template");
    let asked: Vec<Asked> = questions.iter().map(|question| in_tokens(&model, &template, question)).collect();
    let longest = |a: &Asked| a.prompt.len() + a.choices.iter().map(Vec::len).max().unwrap_or(0).max(a.max_tokens);
    let cells = asked.iter().map(longest).max().expect("a question");

    let mut start = |tuned: bool| {
        // All else is llama.cpp's default, flash attention and a cache in f16 among it.
        let params = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(cells as u32))
            .with_n_batch(cells as u32)
            .with_n_threads(threads)
            .with_n_threads_batch(threads);
        let mut context = model.new_context(&backend, params).expect("a context");
        if tuned {
            context.lora_adapter_set(&mut adapter, 1.0).expect("its adapter");
        }
        Running { model: &model, context, batch: LlamaBatch::new(cells, 1) }
    };
    let mut arms = [start(false), start(true)];
    let arms: Vec<Arm> = arms.iter_mut().map(|arm| arm.ask(&asked)).collect();
    std::fs::write(out, serde_json::to_string(&arms).expect("plain data")).expect("OUT.json can be written");
}
