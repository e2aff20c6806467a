//! Traps that lie in a model's files: its tokens, its template, its licence, its quantisation.

use super::Trap;
use crate::inspect::subject::{QUESTION, Subject};
use crate::model::tokenizer::Token;
use crate::shown::quote;

/// A row of the embedding below this share of a usual one was hardly trained.
const SHORT_ROW: f64 = 0.5;
/// Tokens that are named.
const NAMED: usize = 3;

pub(super) static TRAPS: [Trap; 16] = [
    Trap {
        name: "no-template",
        why: "Without a chat template this is a base model: it continues texts, and does not answer messages. A template that you choose teaches its tags besides your task.",
        remedy: "Take the -Instruct model if there is one. Else give `[model] chat_template`, use the same one to train, test and serve, and train more than a few hundred examples. Scenarios with raw `text` need none.",
        find: |s| s.template.is_none().then(|| "there is no chat template".to_owned()),
    },
    Trap {
        name: "broken-template",
        why: "The template cannot write a question and an answer within its bounds, or leaves one out. No chat can be trained or asked with it.",
        remedy: "Give `[model] chat_template` a template that does; `finetest check` says what is wrong with this one.",
        find: |s| {
            let template = s.template.as_ref()?;
            let broken = template.question.is_none() || template.turn_end.is_none();
            broken.then(|| "a chat of a question and an answer cannot be rendered".to_owned())
        },
    },
    Trap {
        name: "bos-twice",
        why: "The template writes the token that begins a text, and the tokenizer adds it again. Trainers and servers that tokenise a rendered chat as a plain text then give the model two, and answers get a little worse everywhere.",
        remedy: "Tokenise rendered chats with add_special_tokens = false. finetest does; look at the first ids that your trainer and your server log.",
        find: |s| {
            let tokens = s.tokens.as_ref()?;
            let bos = tokens.bos.as_ref().filter(|bos| tokens.prefix.contains(bos))?;
            let question = s.template.as_ref()?.question.as_ref()?;
            question
                .trim_start()
                .starts_with(&bos.token)
                .then(|| format!("template and tokenizer both begin with {}", spelt(bos)))
        },
    },
    Trap {
        name: "pad-is-end",
        why: "The token that fills batches also ends answers. A trainer that leaves padding out of the loss by its id leaves out the end too, and the tuned model never stops.",
        remedy: "Give the trainer another pad token that the model has and does not use. finetest masks by position and needs none. A scenario with `max-words` and enough `max_tokens` catches an answer that does not end.",
        find: |s| {
            let tokens = s.tokens.as_ref()?;
            let pad = tokens.pad.as_ref()?;
            let turn_end = s.template.as_ref().and_then(|t| t.turn_end.as_ref());
            let ends = tokens.eos.as_ref() == Some(pad)
                || turn_end.is_some_and(|end| !pad.token.is_empty() && end.trim().starts_with(&pad.token));
            ends.then(|| format!("the pad token is {}, which ends an answer", spelt(pad)))
        },
    },
    Trap {
        name: "no-pad",
        why: "There is no token to fill batches with. Many trainers then take the one that ends a text, with what follows from `pad-is-end`; adding a new one changes the embedding's size.",
        remedy: "Give the trainer a reserved token that the model has (Llama 3: <|finetune_right_pad_id|>). finetest needs none.",
        find: |s| s.tokens.as_ref().filter(|t| t.pad.is_none()).map(|_| "no pad token is named".to_owned()),
    },
    Trap {
        name: "end-of-turn",
        why: "The template ends an answer with a token that the files do not name as an end. Servers that read only the files let the model go on: it writes the user's next turn itself.",
        remedy: "Put the token into eos_token_id of generation_config.json, or give it to the server as a stop. finetest stops there by itself.",
        find: |s| {
            let (tokens, template) = (s.tokens.as_ref()?, s.template.as_ref()?);
            let end = template.turn_end.as_deref()?.trim_start();
            let token = tokens.special.iter().filter(|t| !t.token.is_empty() && end.starts_with(&t.token));
            let token = token.max_by_key(|t| t.token.len())?;
            (!tokens.ends.contains(token)).then(|| format!("answers end with {}", spelt(token)))
        },
    },
    Trap {
        name: "default-system",
        why: "The template writes a system message of its own when a chat has none. Data without a system message are then trained with that text, and a server that sends another, or none, asks another model.",
        remedy: "Write your system message into data and scenarios alike, or leave it out in both and serve with the same template.",
        find: |s| {
            let question = s.template.as_ref()?.question.as_deref()?;
            let words = own_words(question);
            (words.split_whitespace().count() >= 4).then(|| format!("it writes {}", quote(&words)))
        },
    },
    Trap {
        name: "template-date",
        why: "The template writes today's date. The same chat is another prompt tomorrow: snapshots change, caches miss, and training data say a day that is gone.",
        remedy: "Give `[model] chat_template` a copy with a fixed date, and serve with it.",
        find: |s| {
            let source = &s.template.as_ref()?.source;
            let date = ["strftime_now", "date_string"].into_iter().find(|word| source.contains(word))?;
            Some(format!("the template uses `{date}`"))
        },
    },
    Trap {
        name: "thinking",
        why: "The model thinks aloud between <think> tags before it answers. Data without such parts train it away; checks see the thinking as part of the answer; templates drop it from earlier turns, so that a chat is not trained as it is served.",
        remedy: "Decide once: switch thinking off in template and data alike, or keep it in both. Give answers a `max_tokens` that has room for it.",
        find: |s| {
            let source = &s.template.as_ref()?.source;
            let word =
                ["enable_thinking", "<think>", "reasoning_content"].into_iter().find(|word| source.contains(word))?;
            Some(format!("the template has `{word}`"))
        },
    },
    Trap {
        name: "sampled-by-default",
        why: "Servers answer with the sampling that generation_config.json says, not greedily. What a greedy test shows is not what users get.",
        remedy: "Give scenarios the same temperature and several samples, or serve with temperature 0.",
        find: |s| {
            let number = |key: &str| s.generation[key].as_f64().map(|value| format!("{key} {value}"));
            let sampled = s.generation["do_sample"].as_bool() == Some(true);
            let values: Vec<String> =
                ["temperature", "top_p", "top_k", "repetition_penalty"].iter().filter_map(|key| number(key)).collect();
            sampled.then(|| format!("generation_config.json says do_sample, {}", values.join(", ")))
        },
    },
    Trap {
        name: "tokenizer-context",
        why: "tokenizer_config.json gives a shorter text than the model has positions for. Trainers that truncate by it cut your examples in silence.",
        remedy: "Set the trainer's length yourself: sequence_len, max_length or cutoff_len.",
        find: |s| {
            let most = s.tokenizer_config["model_max_length"].as_f64()?;
            (most < s.shape.context as f64)
                .then(|| format!("model_max_length is {most}, the model has {} positions", s.shape.context))
        },
    },
    Trap {
        name: "padded-vocabulary",
        why: "The embedding has more rows than there are tokens. A tool that resizes it to the tokenizer's size makes a model that adapters and GGUF files of the other size do not fit.",
        remedy: "Leave the size as it is: no resize_token_embeddings(len(tokenizer)). New tokens can use the spare rows.",
        find: |s| {
            let spare = s.spare_rows();
            (spare > 0).then(|| format!("{} rows for {} tokens", s.shape.vocab_size, s.shape.vocab_size - spare))
        },
    },
    Trap {
        name: "untrained-tokens",
        why: "Some special tokens' rows are much shorter than others: they were hardly trained, or not at all. A template or a task that uses them begins with noise, and LoRA does not train them.",
        remedy: "Use tags of ordinary text. If you need these tokens, train their rows (PEFT's trainable_token_indices).",
        find: untrained,
    },
    Trap {
        name: "quantised-base",
        why: "The weights are quantised. An adapter that was trained on the 16-bit weights meets others here, and one that is trained here (QLoRA) has learnt to mend this rounding: on other weights it is another adapter.",
        remedy: "Test on the weights that you serve. finetest's base is quantised alike, so the comparison is fair.",
        find: |s| {
            let quantised = |dtype: &str| !matches!(dtype, "F32" | "F16" | "BF16" | "F64" | "I64" | "I32");
            let total: u64 = s.groups.iter().map(|group| group.values).sum();
            let mut types: Vec<(&str, u64)> = Vec::new();
            for group in s.groups.iter().filter(|group| quantised(&group.dtype)) {
                match types.iter_mut().find(|(dtype, _)| *dtype == group.dtype) {
                    Some((_, values)) => *values += group.values,
                    None => types.push((&group.dtype, group.values)),
                }
            }
            types.sort_by_key(|(_, values)| std::cmp::Reverse(*values));
            let (first, _) = types.first()?;
            let share = types.iter().map(|(_, values)| *values).sum::<u64>() as f64 / total.max(1) as f64;
            Some(format!("{:.0} % of the values, most in {first}", share * 100.0))
        },
    },
    Trap {
        name: "quantised-embedding",
        why: "The embedding is quantised to few bits. Rare tokens suffer first: names, numbers, rare scripts.",
        remedy: "Keep it in 8 bits or more (llama-quantize --token-embedding-type q8_0), and ask scenarios with the rare words that matter to you.",
        find: |s| {
            let few = ["Q2", "Q3", "Q4", "Q5", "IQ", "TQ", "MXFP4", "NVFP4", "Q1"];
            let embedding = s.groups.iter().find(|group| group.part == "embedding")?;
            few.iter().any(|bits| embedding.dtype.starts_with(bits)).then(|| format!("it is {}", embedding.dtype))
        },
    },
    Trap {
        name: "licence",
        why: "The licence asks something of who tunes the model, or it is not said which one it is.",
        remedy: "Read the licence before you train; what is said here is a summary, and no legal advice.",
        find: |s| match &s.license {
            None => Some("no file says under which licence it is".to_owned()),
            Some(license) => license.asks().map(str::to_owned),
        },
    },
];

fn spelt(token: &Token) -> String {
    format!("{} ({})", quote(&token.token), token.id)
}

/// What a template writes before a question besides tags, roles and the question itself.
fn own_words(question: &str) -> String {
    let before = question.split(QUESTION).next().unwrap_or_default();
    let mut words = String::new();
    let mut tag = None;
    for c in before.chars() {
        match (tag, c) {
            (None, '<') => tag = Some('>'),
            (None, '[') => tag = Some(']'),
            (Some(end), c) if c == end => {
                tag = None;
                words.push(' ');
            }
            (None, c) => words.push(c),
            _ => {}
        }
    }
    // Of `###` nothing is left.
    const ROLES: [&str; 6] = ["system", "user", "human", "assistant", "instruction", ""];
    let is_role = |word: &&str| ROLES.contains(&word.trim_matches([':', '#']).to_lowercase().as_str());
    words.split_whitespace().filter(|word| !is_role(word)).collect::<Vec<_>>().join(" ")
}

fn untrained(s: &Subject) -> Option<String> {
    let (rows, tokens) = (s.rows.as_ref()?, s.tokens.as_ref()?);
    let short = |row: usize| {
        let at = rows.unusual.binary_search_by_key(&row, |(row, _)| *row).ok()?;
        let share = rows.unusual[at].1 / rows.median;
        (share < SHORT_ROW).then_some(share)
    };
    let found: Vec<(&Token, f64)> = tokens.special.iter().filter_map(|t| Some((t, short(t.id as usize)?))).collect();
    let named: Vec<String> = found.iter().take(NAMED).map(|(token, _)| quote(&token.token)).collect();
    let least = found.iter().map(|(_, share)| *share).fold(f64::INFINITY, f64::min);
    (!found.is_empty()).then(|| {
        let more = if found.len() > NAMED { ", …" } else { "" };
        format!(
            "{} of {} special tokens, down to {:.0} % of a usual row: {}{more}",
            found.len(),
            tokens.special.len(),
            least * 100.0,
            named.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_s_own_words_are_told_from_tags_and_roles() {
        let qwen = format!(
            "<|im_start|>system\nYou are Qwen, a helpful one.<|im_end|>\n<|im_start|>user\n{QUESTION}<|im_end|>\n"
        );
        assert_eq!(own_words(&qwen), "You are Qwen, a helpful one.");
        assert_eq!(own_words(&format!("<s>[INST] {QUESTION} [/INST]")), "");
        assert_eq!(own_words(&format!("### Human: {QUESTION}")), "");
    }
}
