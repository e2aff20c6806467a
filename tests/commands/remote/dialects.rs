//! What the scripted server answers, as each real one does.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::server::{FIRST, Fault, State, ids, next};

impl State {
    pub(super) fn of_llama(&self, body: &Value, prompt: Vec<u32>, applied: bool) -> Result<Value, (u16, String)> {
        let (n, k) = (
            body["n_predict"].as_u64().expect("a number") as usize,
            body["n_probs"].as_u64().expect("a number") as usize,
        );
        let letter = body["grammar"].as_str().is_some_and(|rule| rule.contains("[a-z")).then_some(41);
        let forced: Option<Vec<u32>> = body["grammar"].as_str().filter(|_| letter.is_none()).map(|rule| {
            let ids = rule.split(['<', '[', ']', '>']).filter_map(|part| part.trim().parse().ok());
            ids.collect()
        });
        // No grammar can ask for a part of a character or for the end, and what follows a grammar is the end.
        let (part_of_a_character, end) = (FIRST + 5, FIRST + 7);
        if forced.as_ref().is_some_and(|tokens| tokens.contains(&part_of_a_character) || tokens.contains(&end)) {
            return Err((500, "empty grammar stack".into()));
        }
        let applied = applied && !(forced.is_some() && self.fault == Fault::ForgetsInText);
        let (mut text, mut tokens, mut probabilities) = (prompt.clone(), Vec::new(), Vec::new());
        for i in 0..n {
            let mut top = next(&text, applied);
            let token = letter
                .or_else(|| forced.as_ref().map(|tokens| tokens.get(i).copied().unwrap_or(end)))
                .unwrap_or(top[0].0);
            let own = top.iter().find(|(id, _)| *id == token).map_or(-12.0, |(_, p)| *p)
                + if self.fault == Fault::Impossible { 20.0 } else { 0.0 };
            // A vocabulary has more tokens than the formula knows.
            top.extend((40..400).map(|id| (id, -30.0)));
            if !top.iter().any(|(id, _)| *id == token) {
                top.push((token, -12.0));
            }
            top.truncate(k);
            let top: Vec<Value> = top.iter().map(|(id, p)| json!({"id": id, "token": "x", "logprob": p})).collect();
            // Of such a token the real server tells nothing.
            if token != part_of_a_character {
                probabilities.push(json!({"id": token, "token": "x", "logprob": own, "top_logprobs": top}));
            }
            tokens.push(token);
            text.push(token);
        }
        let mut answer = json!({
            "content": "x", "tokens": tokens, "stop_type": "limit", "tokens_evaluated": prompt.len(),
            "truncated": self.fault == Fault::Truncates,
            "timings": {"cache_n": if self.fault == Fault::UsesCache { 9 } else { 0 }, "prompt_n": prompt.len()},
        });
        if !probabilities.is_empty() {
            answer["completion_probabilities"] = probabilities.into();
        }
        Ok(answer)
    }

    pub(super) fn of_vllm(&self, body: &Value, prompt: Vec<u32>, applied: bool) -> Result<Value, (u16, String)> {
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

    pub(super) fn of_sglang(&self, body: &Value, prompt: Vec<u32>, applied: bool) -> Value {
        assert!(body["return_logprob"].as_bool() == Some(true) && body["logprob_start_len"].is_i64(), "{body}");
        let (start, k) = (
            body["logprob_start_len"].as_i64().expect("a number"),
            body["top_logprobs_num"].as_u64().unwrap_or(0) as usize,
        );
        let triple = |(id, p): &(u32, f64)| json!([p, id, null]);
        let listed = |top: &[(u32, f64)]| -> Value { top.iter().take(k).map(triple).collect() };
        let (mut own, mut tops) = (Vec::new(), Vec::new());
        for i in (0..prompt.len()).skip(usize::try_from(start).unwrap_or(prompt.len())) {
            if i == 0 {
                own.push(json!([null, prompt[0], null]));
                tops.push(Value::Null);
                continue;
            }
            let mut top = next(&prompt[..i], applied && self.fault != Fault::ForgetsInText);
            top.iter_mut().filter(|_| self.fault == Fault::Impossible).for_each(|(_, p)| *p += 20.0);
            let p = top.iter().find(|(id, _)| *id == prompt[i]).map_or(-12.0, |(_, p)| *p);
            own.push(json!([p, prompt[i], null]));
            tops.push(listed(&top));
        }
        let n = body["sampling_params"]["max_new_tokens"].as_u64().expect("a number");
        let (tokens, written) = written(&prompt, n, applied);
        json!({"text": "x", "output_ids": tokens, "meta_info": {
            "prompt_tokens": ids(&body["input_ids"]).len(), "finish_reason": {"type": "length", "length": n}, "input_token_logprobs": own,
            "input_top_logprobs": tops, "output_top_logprobs": written.iter().map(|top| listed(top)).collect::<Vec<_>>(),
        }})
    }

    pub(super) fn of_ollama(&self, body: &Value, prompt: &[u32], applied: bool) -> Value {
        let options = &body["options"];
        assert!(body["raw"] == true && body["stream"] == false, "{body}");
        let (tokens, tops) = written(prompt, options["num_predict"].as_u64().expect("a number"), applied);
        let mut answer = json!({
            "response": self.tokenizer.decode(&tokens, false).expect("a text"), "done": true, "done_reason": "length",
            "prompt_eval_count": prompt.len(), "eval_count": tokens.len(),
        });
        if self.fault != Fault::Silent && body["logprobs"] == true {
            answer["logprobs"] = self.as_texts(&tokens, &tops, &body["top_logprobs"]);
        }
        answer
    }

    pub(super) fn of_openai(&self, body: &Value, prompt: &[u32], applied: bool) -> Result<Value, (u16, String)> {
        if self.fault == Fault::Silent && body["logprobs"] == true {
            return Err((400, "logprobs are not supported".into()));
        }
        let (tokens, tops) = written(prompt, body["max_tokens"].as_u64().expect("a number"), applied);
        let text = self.tokenizer.decode(&tokens, false).expect("a text");
        let mut choice = json!({"finish_reason": "length"});
        if body["messages"].is_array() {
            choice["message"] = json!({"role": "assistant", "content": text});
            if body["logprobs"] == true {
                choice["logprobs"] = json!({"content": self.as_texts(&tokens, &tops, &body["top_logprobs"])});
            }
        } else {
            choice["text"] = json!(text);
            let named = |top: &Vec<(u32, f64)>| -> Map<String, Value> {
                top.iter()
                    .take(2)
                    .map(|(id, p)| (self.tokenizer.decode(&[*id], false).expect("a text"), json!(p)))
                    .collect()
            };
            choice["logprobs"] = json!({"top_logprobs": tops.iter().map(named).collect::<Vec<_>>()});
        }
        Ok(json!({"choices": [choice], "usage": {"prompt_tokens": prompt.len()}}))
    }

    fn as_texts(&self, tokens: &[u32], tops: &[Vec<(u32, f64)>], k: &Value) -> Value {
        let k = k.as_u64().expect("a number") as usize;
        let entry = |id: u32, p: f64| {
            let text = self.tokenizer.decode(&[id], false).expect("a text");
            json!({"token": text, "logprob": p, "bytes": text.as_bytes()})
        };
        let position = |(token, top): (&u32, &Vec<(u32, f64)>)| {
            let mut position = entry(*token, top[0].1);
            position["top_logprobs"] = top.iter().take(k).map(|(id, p)| entry(*id, *p)).collect();
            position
        };
        tokens.iter().zip(tops).map(position).collect()
    }
}

/// A greedy answer, and what is likely at each of its positions.
fn written(prompt: &[u32], n: u64, applied: bool) -> (Vec<u32>, Vec<Vec<(u32, f64)>>) {
    let (mut text, mut tops) = (prompt.to_vec(), Vec::new());
    for _ in 0..n {
        let top = next(&text, applied);
        text.push(top[0].0);
        tops.push(top);
    }
    (text.split_off(prompt.len()), tops)
}
