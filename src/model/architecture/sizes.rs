//! How large a model is, on paper: from its configuration alone, without a weight.

use super::layers::{self, Place};
use super::{DecoderSpec, Positions, Projection, Residual};

/// Numbers of a model. Multiply by 4, 2 or 1 for bytes in f32, bf16 or fp8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Weights in all; a tied head counts once.
    pub parameters: u64,
    /// Weights that one token uses: of the experts only those it goes to, of the embedding all rows.
    pub active_parameters: u64,
    /// Values that the cache holds for each token, all layers together, when keys and values are held as they are attended to.
    pub kv_values: u64,
    /// The same for an engine that holds the latent instead; `None` for attention without one.
    pub latent_kv_values: Option<u64>,
    /// Values that one rank of a LoRA adapter on every linear layer but routers has: times r for an adapter of rank r.
    pub lora_values: u64,
}

impl Sizes {
    /// Of a model with this configuration.
    #[must_use]
    pub fn of(spec: &DecoderSpec) -> Self {
        let (hidden, vocabulary) = (spec.hidden_size as u128, spec.vocab_size as u128);
        let norm = norm(spec, spec.hidden_size);
        let embedding = vocabulary * hidden + if spec.embedding_norm { norm } else { 0 };
        let positions = match spec.positions {
            Positions::Learned => spec.context as u128 * hidden,
            Positions::Rotary { .. } | Positions::Alibi { .. } => 0,
        };
        let head = if spec.tied_head { 0 } else { vocabulary * hidden };
        let norms = norm
            * match spec.residual {
                Residual::Sequential | Residual::Parallel { own_norm: true } => 2,
                Residual::Sandwich => 4,
                Residual::Parallel { own_norm: false } => 1,
            };
        let attention = layers::attention(spec).0;
        let inner_norms: u128 = layers::attention_norms(spec).iter().map(|(_, width)| self::norm(spec, *width)).sum();
        let outside = embedding + positions + head + norm;
        let (mut parameters, mut active_parameters, mut lora_values) = (outside, outside, 0u128);
        for block in 0..spec.layers {
            let experts = spec.experts(block);
            // The bias of the choice of experts is one number each.
            let correction = experts.filter(|e| e.router.correction).map_or(0, |e| e.count as u128);
            let fixed = norms + inner_norms + correction;
            parameters += fixed;
            active_parameters += fixed;
            for layer in attention.iter().chain(&layers::feed_forward(spec, block).0) {
                let (all, used) = match layer.place {
                    Place::Expert => experts.map_or((0, 0), |e| (e.count as u128, e.per_token as u128)),
                    Place::Block | Place::Shared | Place::Router => (1, 1),
                };
                let [outside, inside] = layer.shape.map(|n| n as u128);
                let weights = outside * inside + if layer.bias { outside } else { 0 };
                parameters += all * weights;
                active_parameters += used * weights;
                if layer.place != Place::Router {
                    lora_values += all * (outside + inside);
                }
            }
        }
        let a = &spec.attention;
        let product = |factors: &[usize]| factors.iter().map(|n| *n as u128).product::<u128>();
        let kv_values = product(&[spec.layers, a.kv_heads, a.head_dim + a.value_dim]);
        let latent_kv_values = match &a.projection {
            Projection::Latent(latent) => Some(short(product(&[spec.layers, latent.kv_rank + latent.rope]))),
            _ => None,
        };
        Self {
            parameters: short(parameters),
            active_parameters: short(active_parameters),
            kv_values: short(kv_values),
            latent_kv_values,
            lora_values: short(lora_values),
        }
    }
}

/// No real model comes near it; a hostile configuration is reported a number that is too small rather than a wrong one.
pub(super) fn short(n: u128) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

fn norm(spec: &DecoderSpec, width: usize) -> u128 {
    layers::vectors_of_norm(spec) as u128 * width as u128
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::decoder::parity::{FAMILIES, decoder, fixture};

    fn sizes(config: &str) -> Sizes {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("config.json");
        std::fs::write(&path, config).expect("a file");
        Sizes::of(&DecoderSpec::from_config(&path).expect("a configuration"))
    }

    fn dense(family: &str, [hidden, layers, heads, kv, inner, vocabulary]: [usize; 6], more: &str) -> Sizes {
        sizes(&format!(
            r#"{{"model_type": "{family}", "hidden_size": {hidden}, "num_hidden_layers": {layers},
                "num_attention_heads": {heads}, "num_key_value_heads": {kv}, "intermediate_size": {inner},
                "vocab_size": {vocabulary}, "max_position_embeddings": 4096, "rms_norm_eps": 1e-6{more}}}"#
        ))
    }

    /// Parameter counts as the models' pages on the hub show them.
    #[test]
    fn published_models_have_their_published_sizes() {
        let llama = [
            ([4096, 32, 32, 8, 14_336, 128_256], 8_030_261_248),
            ([8192, 80, 64, 8, 28_672, 128_256], 70_553_706_496),
            ([16_384, 126, 128, 8, 53_248, 128_256], 405_853_388_800),
        ];
        for (shape, expected) in llama {
            assert_eq!(dense("llama", shape, "").parameters, expected);
        }
        let tied = r#", "tie_word_embeddings": true"#;
        let qwen2 = [
            ([896, 24, 14, 2, 4864, 151_936], tied, 494_032_768),
            ([1536, 28, 12, 2, 8960, 151_936], tied, 1_543_714_304),
            ([2048, 36, 16, 2, 11_008, 151_936], tied, 3_085_938_688),
            ([3584, 28, 28, 4, 18_944, 152_064], "", 7_615_616_512),
            ([5120, 48, 40, 8, 13_824, 152_064], "", 14_770_033_664),
            ([5120, 64, 40, 8, 27_648, 152_064], "", 32_763_876_352),
            ([8192, 80, 64, 8, 29_568, 152_064], "", 72_706_203_648),
        ];
        for (shape, more, expected) in qwen2 {
            assert_eq!(dense("qwen2", shape, more).parameters, expected);
        }
        let qwen3 = [
            ([1024, 28, 16, 8, 3072, 151_936], tied, 596_049_920),
            ([2048, 28, 16, 8, 6144, 151_936], tied, 1_720_574_976),
            ([2560, 36, 32, 8, 9728, 151_936], tied, 4_022_468_096),
            ([4096, 36, 32, 8, 12_288, 151_936], "", 8_190_735_360),
            ([5120, 40, 40, 8, 17_408, 151_936], "", 14_768_307_200),
            ([5120, 64, 64, 8, 25_600, 151_936], "", 32_762_123_264),
        ];
        for (shape, more, expected) in qwen3 {
            let more = format!(r#", "head_dim": 128{more}"#);
            assert_eq!(dense("qwen3", shape, &more).parameters, expected);
        }
    }

    #[test]
    fn published_mixtures_have_their_published_sizes_and_active_parameters() {
        let experts = |size: usize| {
            format!(
                r#", "head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": {size}"#
            )
        };
        let small = dense("qwen3_moe", [2048, 48, 32, 4, 6144, 151_936], &experts(768));
        assert_eq!(small.parameters, 30_532_122_624);
        assert_eq!(small.active_parameters / 100_000_000, 33, "3.3B: {}", small.active_parameters);
        let large = dense("qwen3_moe", [4096, 94, 64, 4, 12_288, 151_936], &experts(1536));
        assert_eq!(large.parameters, 235_093_634_560);
        assert_eq!(large.active_parameters / 1_000_000_000, 22, "22B: {}", large.active_parameters);

        let deepseek = dense(
            "deepseek_v3",
            [7168, 61, 128, 128, 18_432, 129_280],
            r#", "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
                "v_head_dim": 128, "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8,
                "n_group": 8, "topk_group": 4, "moe_intermediate_size": 2048, "first_k_dense_replace": 3"#,
        );
        assert_eq!(deepseek.parameters / 1_000_000_000, 671, "671B: {}", deepseek.parameters);
        assert_eq!(deepseek.active_parameters / 1_000_000_000, 37, "37B: {}", deepseek.active_parameters);
        assert_eq!(deepseek.latent_kv_values, Some(61 * 576));
        assert_eq!(deepseek.kv_values, 61 * 128 * (192 + 128));
    }

    #[test]
    fn impossible_sizes_are_the_largest_number_and_no_panic() {
        let most = dense("llama", [1 << 28, 1 << 16, 1 << 16, 1 << 16, 1 << 28, 1 << 28], r#", "head_dim": 65536"#);
        assert_eq!(most.parameters, u64::MAX);
    }

    /// What the decoder counts when it has loaded the weights.
    #[test]
    fn the_paper_agrees_with_loaded_models() {
        for family in FAMILIES {
            let spec = DecoderSpec::from_config(&fixture(&format!("{family}/config.json"))).expect(family);
            let decoder = decoder(family);
            let sizes = Sizes::of(&spec);
            assert_eq!(sizes.parameters, decoder.parameters(), "{family}");
            let lora: usize = decoder.linears().map(|l| l.frozen.weight.rows + l.frozen.weight.cols).sum();
            assert_eq!(sizes.lora_values, lora as u64, "{family}");
        }
        // Keys and values of 8 heads of 128 in 32 layers.
        assert_eq!(dense("llama", [4096, 32, 32, 8, 14_336, 128_256], "").kv_values, 32 * 8 * 128 * 2);
    }
}
