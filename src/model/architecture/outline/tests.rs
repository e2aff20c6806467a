use candle_core::quantized::gguf_file::Value;

use super::*;
use crate::model::decoder::parity::{decoder, fixture};
use crate::model::formats::mapped::map_file;

fn of_file(name: &str) -> Outline {
    let path = fixture(name);
    let map = map_file(&path).expect("a file");
    Outline::of_gguf(&path, &Header::read(&path, &map).expect("a header"), map.len()).expect("an outline")
}

#[test]
fn an_architecture_that_is_not_known_is_named_before_its_keys() {
    let path = fixture("llama/model.gguf");
    let map = map_file(&path).expect("a file");
    let mut header = Header::read(&path, &map).expect("a header");
    header.metadata.insert("general.architecture".to_owned(), Value::String("nonsense".to_owned()));
    let told = Outline::of_gguf(&path, &header, map.len()).expect_err("refused").to_string();
    assert!(told.contains("model family `nonsense` is not known; known are: llama, qwen2"), "{told}");
}

/// With any byte of the header changed there is an outline or an error, and no panic.
#[test]
fn a_damaged_header_gives_an_outline_or_an_error() {
    for family in ["llama", "qwen3_moe", "deepseek_v3", "falcon"] {
        let path = fixture(&format!("{family}/model.gguf"));
        let bytes = std::fs::read(&path).expect("a file");
        let end = bytes.windows(11).rposition(|w| w == b"output_norm").expect("a tensor");
        for at in (4..end).step_by(5) {
            let mut damaged = bytes.clone();
            damaged[at] = damaged[at].wrapping_add(1 + (at % 255) as u8);
            let Ok(header) = Header::read(&path, &damaged) else { continue };
            let Ok(outline) = Outline::of_gguf(&path, &header, damaged.len()) else { continue };
            for (layer, [rows, _]) in &outline.layers {
                outline.order(layer, *rows);
            }
        }
    }
}

#[test]
fn shapes_that_the_file_cannot_hold_are_refused() {
    let path = fixture("llama/model.gguf");
    let map = map_file(&path).expect("a file");
    let refused = |change: &dyn Fn(&mut Header)| {
        let mut header = Header::read(&path, &map).expect("a header");
        change(&mut header);
        Outline::of_gguf(&path, &header, map.len()).expect_err("must be refused").to_string()
    };
    let shape = |name: &'static str, shape: &'static [usize]| {
        move |header: &mut Header| header.tensors.get_mut(name).expect("a tensor").shape = shape.to_vec()
    };
    let q = "blk.0.attn_q.weight";
    for (change, expected) in [
        (shape(q, &[1 << 40, 64]), "ends behind the file's"),
        (shape(q, &[usize::MAX, 2]), "ends behind the file's"),
        (shape(q, &[65, 64]), "has 65 rows, which are not those of 4 and 2 heads of 16"),
        (shape("token_embd.weight", &[320]), "`token_embd.weight` is missing or not a matrix"),
    ] {
        let message = refused(&change);
        assert!(message.contains(expected), "{message}");
    }
    let split = |header: &mut Header| drop(header.metadata.insert("split.count".into(), Value::U16(3)));
    assert!(refused(&split).contains("is one of 3 parts of a model; put them together with llama-gguf-split"));
    let long = |header: &mut Header| drop(header.metadata.insert("llama.context_length".into(), Value::U32(1 << 31)));
    assert!(refused(&long).contains("`llama.context_length` is 2147483648, expected at most"));
    let missing = |header: &mut Header| header.tensors.retain(|name, _| !name.starts_with("blk.1."));
    assert!(refused(&missing).contains("has no tensor of block 1 of 3"));
    let named = |header: &mut Header| {
        header.metadata.insert("general.architecture".into(), Value::String("\u{1b}[2J".into()));
    };
    assert!(refused(&named).contains("is no family's name"));
}

/// A tensor that no adapter can name, and experts that are a plain matrix, are left alone.
#[test]
fn tensors_that_are_no_layers_are_none() {
    let path = fixture("llama/model.gguf");
    let map = map_file(&path).expect("a file");
    let mut header = Header::read(&path, &map).expect("a header");
    let whole = Outline::of_gguf(&path, &header, map.len()).expect("an outline");
    let q = header.tensors["blk.0.attn_q.weight"].clone();
    for name in ["blk.0.foo.weight", "blk.0.ffn_up_exps.weight", "blk.1.ffn_gate_inp.weight"] {
        header.tensors.insert(name.into(), q.clone());
    }
    let more = Outline::of_gguf(&path, &header, map.len()).expect("an outline");
    assert_eq!(more.layers, whole.layers);
}

/// What is reported by a file's header alone is what its decoder has.
#[test]
fn the_outline_of_a_file_is_its_decoder_s() {
    for family in Family::ALL {
        let name = format!("{}/model.gguf", family.name());
        let (file, decoder) = (of_file(&name), Outline::of(&decoder(&name).spec));
        assert_eq!((&file.family, &file.architecture), (&decoder.family, &decoder.architecture));
        assert_eq!(file.layers, decoder.layers, "{name}");
        let counts = |o: &Outline| (o.experts, o.vocabulary, o.context, o.parameters);
        assert_eq!(counts(&file), counts(&decoder), "{name}");
        for (path, [rows, _]) in &file.layers {
            assert_eq!(file.order(path, *rows), decoder.order(path, *rows), "{name}: {path}");
            assert_eq!(file.gguf(path), decoder.gguf(path), "{path}");
            assert_eq!(file.expert(path), decoder.expert(path), "{path}");
        }
        assert_eq!(file.vocabulary_paths(), decoder.vocabulary_paths());
    }
}
