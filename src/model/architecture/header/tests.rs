use super::*;
use crate::model::architecture::{DecoderSpec, Family};
use crate::model::decoder::parity::fixture;
use crate::model::formats::mapped::map_file;

fn read(name: &str, change: impl FnOnce(&mut Header)) -> Result<HeaderSpec> {
    let path = fixture(name);
    let map = map_file(&path).expect("a file");
    let mut header = Header::read(&path, &map).expect("a header");
    change(&mut header);
    HeaderSpec::of_gguf(&path, &header, map.len())
}

/// The header of a family that has a decoder says what the decoder's own reading of it says.
#[test]
fn a_header_s_sizes_are_those_of_the_decoder() {
    for family in Family::ALL {
        let path = fixture(&format!("{}/model.gguf", family.name()));
        let map = map_file(&path).expect("a file");
        let header = Header::read(&path, &map).expect("a header");
        let spec = DecoderSpec::from_gguf(&path, &header).expect("a configuration");
        let found = HeaderSpec::of_gguf(&path, &header, map.len()).expect("a header");
        assert_eq!(found.sizes, Sizes::of(&spec), "{family:?}");
        let shape = (found.layers, found.hidden_size, found.vocab_size, found.context, found.tied_head);
        assert_eq!(shape, (spec.layers, spec.hidden_size, spec.vocab_size, spec.context, spec.tied_head));
        let heads = found.heads.expect("attention");
        assert_eq!((heads.queries, heads.key_size), (spec.attention.heads, spec.attention.head_dim), "{family:?}");
        let layer = |kind: NormKind| matches!(kind, NormKind::Layer { .. });
        assert_eq!(found.norm.map(|norm| layer(norm.kind)), Some(layer(spec.norm.kind)), "{family:?}");
    }
}

#[test]
fn layers_may_differ_and_none_may_attend() {
    let list = |values: [u32; 3]| Value::Array(values.map(Value::U32).to_vec());
    let set = |keys: Vec<(&'static str, Value)>| {
        move |header: &mut Header| {
            header.metadata.extend(keys.into_iter().map(|(key, value)| (key.to_owned(), value)));
        }
    };
    let mixed = read(
        "llama/model.gguf",
        set(vec![
            ("llama.attention.head_count", list([4, 0, 4])),
            ("llama.attention.head_count_kv", list([2, 0, 1])),
            ("llama.ssm.inner_size", Value::U32(128)),
            ("llama.ssm.state_size", Value::U32(16)),
        ]),
    );
    // Rows of Llama's files are ordered by heads, which have to be alike there.
    assert!(mixed.expect_err("refused").to_string().contains("the layers differ"));
    let renamed = |keys: Vec<(&'static str, Value)>| {
        read("qwen2/model.gguf", |header| {
            let old: Vec<(String, Value)> = header.metadata.drain().collect();
            let named = |key: String| key.replace("qwen2.", "mamba.");
            header.metadata.extend(old.into_iter().map(|(key, value)| (named(key), value)));
            header.metadata.insert("general.architecture".into(), Value::String("mamba".into()));
            set(keys)(header);
        })
        .expect("a header")
    };
    let mixed = renamed(vec![
        ("mamba.attention.head_count", list([4, 0, 4])),
        ("mamba.attention.head_count_kv", list([2, 0, 1])),
        ("mamba.attention.key_length", Value::U32(16)),
    ]);
    assert_eq!(mixed.sizes.kv_values, 3 * 32);
    let none = renamed(vec![
        ("mamba.attention.head_count", Value::U32(0)),
        ("mamba.ssm.inner_size", Value::U32(128)),
        ("mamba.ssm.state_size", Value::U32(16)),
    ]);
    assert_eq!((none.heads, none.states, none.sizes.kv_values), (None, Some([128, 16]), 0));
    assert!(none.positions.is_none() && none.sizes.lora_values > 0);
}
