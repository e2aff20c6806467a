//! Names of tensors: a family's Hugging Face names, and what GGUF calls them.
//!
//! A [`Names`] has one name for each part that a decoder can have, relative to the model (embedding, last norm, head) or to its
//! block. A part that a family has not keeps its neighbour's name and is never asked for.

use super::Family;

/// A family's names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names {
    /// The embedding, (vocabulary, hidden).
    pub(crate) embedding: &'static str,
    /// The norm after it.
    pub(crate) embedding_norm: &'static str,
    /// Learned positions, (context, hidden).
    pub(crate) positions: &'static str,
    /// The last norm.
    pub(crate) final_norm: &'static str,
    /// The head, (vocabulary, hidden); absent when it is tied to the embedding.
    pub(crate) head: &'static str,
    /// What a block's number is appended to.
    pub(crate) blocks: &'static str,
    pub(crate) attention_norm: &'static str,
    pub(crate) post_attention_norm: &'static str,
    pub(crate) ffn_norm: &'static str,
    pub(crate) post_ffn_norm: &'static str,
    pub(crate) q: &'static str,
    pub(crate) k: &'static str,
    pub(crate) v: &'static str,
    pub(crate) qkv: &'static str,
    pub(crate) output: &'static str,
    pub(crate) q_norm: &'static str,
    pub(crate) k_norm: &'static str,
    pub(crate) q_a: &'static str,
    pub(crate) q_a_norm: &'static str,
    pub(crate) q_b: &'static str,
    pub(crate) kv_a: &'static str,
    pub(crate) kv_a_norm: &'static str,
    pub(crate) kv_b: &'static str,
    /// GGUF's two halves of `kv_b`, which Hugging Face does not have: (heads, rank, nope) and (heads, value_dim, rank).
    pub(crate) k_b: &'static str,
    pub(crate) v_b: &'static str,
    pub(crate) gate: &'static str,
    pub(crate) up: &'static str,
    pub(crate) down: &'static str,
    pub(crate) router: &'static str,
    /// A tensor, not a module: the bias of the choice of experts.
    pub(crate) correction: &'static str,
    /// What an expert's number is appended to.
    pub(crate) experts: &'static str,
    /// Names inside an expert, and inside the shared one.
    pub(crate) expert_gate: &'static str,
    pub(crate) expert_up: &'static str,
    pub(crate) expert_down: &'static str,
    pub(crate) shared: &'static str,
    pub(crate) shared_gate: &'static str,
    /// Linear weights are stored (in, out).
    pub(crate) transposed: bool,
}

/// Llama's, which most families took over.
pub(crate) const LLAMA: Names = Names {
    embedding: "model.embed_tokens",
    embedding_norm: "model.embed_norm",
    positions: "model.embed_positions",
    final_norm: "model.norm",
    head: "lm_head",
    blocks: "model.layers",
    attention_norm: "input_layernorm",
    post_attention_norm: "post_attention_layernorm",
    ffn_norm: "post_attention_layernorm",
    post_ffn_norm: "post_feedforward_layernorm",
    q: "self_attn.q_proj",
    k: "self_attn.k_proj",
    v: "self_attn.v_proj",
    qkv: "self_attn.qkv_proj",
    output: "self_attn.o_proj",
    q_norm: "self_attn.q_norm",
    k_norm: "self_attn.k_norm",
    q_a: "self_attn.q_a_proj",
    q_a_norm: "self_attn.q_a_layernorm",
    q_b: "self_attn.q_b_proj",
    kv_a: "self_attn.kv_a_proj_with_mqa",
    kv_a_norm: "self_attn.kv_a_layernorm",
    kv_b: "self_attn.kv_b_proj",
    k_b: "self_attn.k_b_proj",
    v_b: "self_attn.v_b_proj",
    gate: "mlp.gate_proj",
    up: "mlp.up_proj",
    down: "mlp.down_proj",
    router: "mlp.gate",
    correction: "mlp.gate.e_score_correction_bias",
    experts: "mlp.experts",
    expert_gate: "gate_proj",
    expert_up: "up_proj",
    expert_down: "down_proj",
    shared: "mlp.shared_experts",
    shared_gate: "mlp.shared_expert_gate",
    transposed: false,
};

/// The table of a family; `own_norm`: its feed-forward, beside the attention, has a norm of its own.
pub(crate) fn names(family: Family, own_norm: bool) -> Names {
    let facts = family.facts();
    facts.names_with_own_norm.filter(|_| own_norm).unwrap_or(facts.names)
}

impl Names {
    /// Path of a block's module: `model.layers.3.self_attn.q_proj`.
    pub(crate) fn block(&self, layer: usize, module: &str) -> String {
        format!("{}.{layer}.{module}", self.blocks)
    }

    /// The Hugging Face name of a GGUF tensor; the name itself when the table has none.
    ///
    /// Tensors of all experts together keep a name of their own: `model.layers.3.mlp.experts.gate_proj.weight`.
    pub(crate) fn hugging_face(&self, gguf: &str) -> String {
        let renamed = |rest: &str, layer: &str| {
            if rest == "exp_probs_b.bias" {
                return Some(format!("{}.{layer}.{}", self.blocks, self.correction));
            }
            let (module, kind) = rest.rsplit_once('.')?;
            Some(format!("{}.{layer}.{}.{kind}", self.blocks, self.module(module)?))
        };
        let found = match gguf.split_once('.') {
            Some(("blk", rest)) => rest.split_once('.').and_then(|(layer, rest)| renamed(rest, layer)),
            Some(("token_embd", kind)) => Some(format!("{}.{kind}", self.embedding)),
            Some(("token_embd_norm", kind)) => Some(format!("{}.{kind}", self.embedding_norm)),
            Some(("position_embd", kind)) => Some(format!("{}.{kind}", self.positions)),
            Some(("output_norm", kind)) => Some(format!("{}.{kind}", self.final_norm)),
            Some(("output", kind)) => Some(format!("{}.{kind}", self.head)),
            _ => None,
        };
        found.unwrap_or_else(|| gguf.to_owned())
    }

    /// What GGUF calls the layer at this path: `blk.3.attn_q` for `model.layers.3.self_attn.q_proj`. A path of all experts
    /// together is that of [`Self::expert`].
    pub(crate) fn gguf(&self, path: &str) -> Option<String> {
        let rest = path.strip_prefix(self.blocks)?.strip_prefix('.')?;
        let (layer, module) = rest.split_once('.')?;
        let (gguf, _) = self.modules().into_iter().find(|(_, name)| name == module)?;
        Some(format!("blk.{layer}.{gguf}"))
    }

    /// The path of all experts together and the number of one: `model.layers.3.mlp.experts.gate_proj` and 5 for
    /// `model.layers.3.mlp.experts.5.gate_proj`.
    pub(crate) fn expert(&self, path: &str) -> Option<(String, usize)> {
        let (before, after) = path.split_once(&format!(".{}.", self.experts))?;
        let (number, part) = after.split_once('.')?;
        Some((format!("{before}.{}.{part}", self.experts), number.parse().ok()?))
    }

    /// The inverse of [`Self::expert`]: where the experts are, and the part, for a path of all experts together.
    pub(crate) fn stack<'p>(&self, path: &'p str) -> Option<(&'p str, &'p str)> {
        path.rsplit_once('.').filter(|(all, _)| all.strip_suffix(self.experts).is_some_and(|rest| rest.ends_with('.')))
    }

    /// The part that GGUF calls `module`.
    fn module(&self, module: &str) -> Option<String> {
        self.modules().into_iter().find(|(gguf, _)| *gguf == module).map(|(_, name)| name)
    }

    /// What GGUF calls each part of a block.
    fn modules(&self) -> Vec<(&'static str, String)> {
        let expert = |name: &str| format!("{}.{name}", self.experts);
        let shared = |name: &str| format!("{}.{name}", self.shared);
        // Falcon's newer form has two norms before its two parts; GGUF calls the feed-forward's `attn_norm` then.
        let two_norms = self.attention_norm == "ln_attn";
        let plain = [
            ("attn_norm", if two_norms { self.ffn_norm } else { self.attention_norm }),
            ("attn_norm_2", self.attention_norm),
            ("post_attention_norm", self.post_attention_norm),
            ("ffn_norm", self.ffn_norm),
            ("post_ffw_norm", self.post_ffn_norm),
            ("attn_q", self.q),
            ("attn_k", self.k),
            ("attn_v", self.v),
            ("attn_qkv", self.qkv),
            ("attn_output", self.output),
            ("attn_q_norm", self.q_norm),
            ("attn_k_norm", self.k_norm),
            ("attn_q_a", self.q_a),
            ("attn_q_a_norm", self.q_a_norm),
            ("attn_q_b", self.q_b),
            ("attn_kv_a_mqa", self.kv_a),
            ("attn_kv_a_norm", self.kv_a_norm),
            ("attn_kv_b", self.kv_b),
            ("attn_k_b", self.k_b),
            ("attn_v_b", self.v_b),
            ("ffn_gate", self.gate),
            ("ffn_up", self.up),
            ("ffn_down", self.down),
            ("ffn_gate_inp", self.router),
            ("ffn_gate_inp_shexp", self.shared_gate),
        ];
        let joined = [
            ("ffn_gate_exps", expert(self.expert_gate)),
            ("ffn_up_exps", expert(self.expert_up)),
            ("ffn_down_exps", expert(self.expert_down)),
            ("ffn_gate_shexp", shared(self.expert_gate)),
            ("ffn_up_shexp", shared(self.expert_up)),
            ("ffn_down_shexp", shared(self.expert_down)),
        ];
        plain.into_iter().map(|(gguf, name)| (gguf, name.to_owned())).chain(joined).collect()
    }
}
