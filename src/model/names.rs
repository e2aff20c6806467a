//! Names of tensors: a family's Hugging Face names, and what GGUF calls them.

use super::spec::Family;

/// The embedding, (vocabulary, hidden).
pub(crate) const EMBEDDING: &str = "model.embed_tokens";
/// The last norm.
pub(crate) const FINAL_NORM: &str = "model.norm";
/// The head, (vocabulary, hidden); absent when it is tied to the embedding.
pub(crate) const HEAD: &str = "lm_head";

/// Path of a block's module: `model.layers.3.self_attn.q_proj`.
pub(crate) fn block(layer: usize, module: &str) -> String {
    format!("model.layers.{layer}.{module}")
}

const LLAMA_BLOCK: [(&str, &str); 9] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// The Hugging Face name of a GGUF tensor; the name itself when the table has none.
pub(crate) fn from_gguf(family: Family, name: &str) -> String {
    let table = match family {
        Family::Llama => &LLAMA_BLOCK,
    };
    let renamed = |rest: &str, layer: &str| {
        let (module, kind) = rest.rsplit_once('.')?;
        let (_, to) = table.iter().find(|(from, _)| *from == module)?;
        Some(format!("model.layers.{layer}.{to}.{kind}"))
    };
    let found = match name.split_once('.') {
        Some(("blk", rest)) => rest.split_once('.').and_then(|(layer, rest)| renamed(rest, layer)),
        Some(("token_embd", kind)) => Some(format!("{EMBEDDING}.{kind}")),
        Some(("output_norm", kind)) => Some(format!("{FINAL_NORM}.{kind}")),
        Some(("output", kind)) => Some(format!("{HEAD}.{kind}")),
        _ => None,
    };
    found.unwrap_or_else(|| name.to_owned())
}

/// Does GGUF hold this family's q and k rows in llama.cpp's order?
pub(crate) fn permuted_in_gguf(family: Family) -> bool {
    match family {
        Family::Llama => true,
    }
}
