//! Traps that follow from what a model is: its positions, its norms, its experts, its vocabulary.

use super::Trap;
use crate::inspect::subject::Subject;
use crate::inspect::words;
use crate::model::architecture::{NormKind, Positions, RopeScaling};

/// Rows of a head that make its logits the largest part of a training step.
const LARGE_VOCABULARY: usize = 100_000;

pub(super) static TRAPS: [Trap; 12] = [
    Trap {
        name: "rope-context",
        why: "Rotary positions (RoPE) beyond those of the training are angles that the model has never seen. Answers degrade there, often without a sign.",
        remedy: "Keep sequence_len, prompts and answers together below the context. If you need more, take a model that was stretched, and ask scenarios at the lengths that you serve.",
        find: |s| {
            let Some(Positions::Rotary { global, .. }) = &s.shape.positions else { return None };
            (global.scaling == RopeScaling::None)
                .then(|| format!("RoPE without scaling, trained on {} positions", s.shape.context))
        },
    },
    Trap {
        name: "rope-scaled",
        why: "The context was stretched after pre-training. Some engines apply the scaling to short texts too, others leave it out, and a converter may lose it: base and tuned then answer differently from engine to engine.",
        remedy: "Train at the lengths that you serve. Compare engines by `finetest crosscheck`, and ask some scenarios beyond the first context.",
        find: |s| {
            let Some(Positions::Rotary { global, .. }) = &s.shape.positions else { return None };
            let first = match &global.scaling {
                RopeScaling::None => return None,
                RopeScaling::Llama3 { original_context, .. } => Some(*original_context),
                RopeScaling::Yarn(yarn) => Some(yarn.original_context),
                RopeScaling::Linear { .. } | RopeScaling::Factors(_) => None,
            };
            let first = first.map_or_else(String::new, |n| format!(" from {n} positions"));
            Some(format!("RoPE with {}{first} to {}", words::scaling(&global.scaling), s.shape.context))
        },
    },
    Trap {
        name: "alibi",
        why: "ALiBi lowers the scores of far tokens instead of turning queries and keys. Longer texts work, but what lies far back is hardly seen, and engines that fold the slopes into fast attention kernels differ.",
        remedy: "Put what matters near the end of the prompt. Do not carry rotary settings over from recipes of other models.",
        find: |s| matches!(s.shape.positions, Some(Positions::Alibi { .. })).then(|| "ALiBi positions".to_owned()),
    },
    Trap {
        name: "learned-positions",
        why: "Each position has a learned vector, and there is none after the last: longer texts are an error, not worse answers. Adapters do not change these vectors.",
        remedy: "Keep sequence_len, prompts and answers together within the context.",
        find: |s| {
            matches!(s.shape.positions, Some(Positions::Learned))
                .then(|| format!("{} learned positions", s.shape.context))
        },
    },
    Trap {
        name: "sliding-window",
        why: "Some layers see only the last tokens. Long documents are seen whole by the other layers alone, and an engine that leaves the window out answers differently.",
        remedy: "Ask some scenarios with prompts longer than the window.",
        find: |s| s.shape.window.clone(),
    },
    Trap {
        name: "layer-norm",
        why: "LayerNorm takes the mean out besides dividing by the spread, and most such models have biases throughout. LoRA leaves norms and biases as they are, and recipes for Llama's RMSNorm often use rates that these older models do not bear.",
        remedy: "Begin at half the rate, with warmup_ratio = 0.1, and watch the first losses with `finetest diagnose`. If you train norms or biases too, start from the base's own values: a new LayerNorm begins at weight 1 and bias 0, which is another model.",
        find: |s| {
            let norm = s.shape.norm.filter(|norm| matches!(norm.kind, NormKind::Layer { .. }));
            norm.map(|norm| words::norm(Some(norm)))
        },
    },
    Trap {
        name: "norm-plus-one",
        why: "Hugging Face stores these norms less 1, GGUF does not. A tool that copies norms between the two without the 1 makes a model that writes nonsense.",
        remedy: "Convert with the engine's own converter or `finetest export`, and compare with `finetest crosscheck`. Do not name norms in modules_to_save.",
        find: |s| {
            let plus = s.shape.norm.is_some_and(|norm| norm.kind == NormKind::RmsPlusOne) && !s.gguf;
            plus.then(|| "RMSNorm whose weights are stored less 1".to_owned())
        },
    },
    Trap {
        name: "experts",
        why: "A mixture of experts needs the memory of all experts, and the time of those that a token uses. Few examples reach each expert. Trainers differ in what they adapt: many leave experts out in silence, and PEFT below 0.17 cannot adapt experts that are stored as one tensor (`target_parameters`). The router is not adapted.",
        remedy: "Begin with the attention's layers alone (`lora_target_modules`). If experts are adapted, look at the adapter with `finetest inspect MODEL --adapter DIR`: it names what was never trained. Before serving with vLLM or SGLang, read whether their version takes adapters on experts of this family.",
        find: |s| s.shape.experts.clone(),
    },
    Trap {
        name: "layer-names",
        why: "Recipes that name q_proj, k_proj and v_proj find no such layers here. Some trainers then adapt fewer layers than was meant, without an error.",
        remedy: "Use `lora_target_linear = true`, or the names that are shown.",
        find: |s| s.shape.other_layers.clone(),
    },
    Trap {
        name: "tied-head",
        why: "The head is the embedding. Who trains one of them (modules_to_save = [\"lm_head\"], or new tokens) changes both, or unties them: the saved model is then larger, and an engine that ties them again loses the training.",
        remedy: "Leave embedding and head as they are. If you need new tokens, use PEFT's trainable_token_indices, and test with the engine that you serve with.",
        find: |s| s.shape.tied_head.then(|| "the head is tied to the embedding".to_owned()),
    },
    Trap {
        name: "large-vocabulary",
        why: "While training, logits of all tokens are the largest thing in memory: 4 bytes for each token and row of the head, and often two or three copies.",
        remedy: "Lower micro_batch_size before anything else. finetest computes the loss in blocks and holds no such matrix; for other trainers look for a fused or chunked cross-entropy (Liger, Unsloth, cut-cross-entropy).",
        find: |s| {
            (s.shape.vocab_size >= LARGE_VOCABULARY).then(|| {
                let megabytes = s.shape.vocab_size as f64 * 2048.0 * 4.0 / 1e6;
                format!("{} rows: logits of 2048 tokens are {megabytes:.0} MB in f32", s.shape.vocab_size)
            })
        },
    },
    Trap {
        name: "half-precision",
        why: "The model was trained in bfloat16, whose range float16 does not have. In float16 some activations overflow: the loss is NaN, or answers break off. Gemma 3 is known for it.",
        remedy: "Use bf16, or f32 on a GPU without it (T4, V100). Do not convert to f16 without a comparison by `finetest crosscheck`.",
        find: bfloat16,
    },
];

fn bfloat16(s: &Subject) -> Option<String> {
    let said = ["torch_dtype", "dtype"].iter().find_map(|key| s.config[key].as_str());
    let stored = s.groups.iter().any(|group| group.dtype == "BF16");
    match said {
        Some("bfloat16") => Some("config.json says bfloat16".to_owned()),
        None if stored => Some("its weights are BF16".to_owned()),
        _ => None,
    }
}
