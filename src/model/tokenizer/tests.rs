//! What a tokenizer's file may not say.

use super::*;

fn fixture() -> Json {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer/tokenizer.json");
    read_json(&path).expect("the fixture")
}

fn opened(json: &Json) -> Result<Tokenizer> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, json.to_string()).expect("written");
    Tokenizer::from_file(&path)
}

/// The last tokens of the vocabulary, which are merged ones.
fn last_tokens(json: &Json) -> Vec<String> {
    let vocabulary = json["model"]["vocab"].as_object().expect("a vocabulary");
    let mut tokens: Vec<(u64, String)> =
        vocabulary.iter().map(|(token, id)| (id.as_u64().expect("an id"), token.clone())).collect();
    tokens.sort();
    tokens.into_iter().rev().take(2).map(|(_, token)| token).collect()
}

#[test]
fn a_text_has_the_same_ids_every_time() {
    let plain = opened(&fixture()).expect("a tokenizer");
    let mut json = fixture();
    json["model"]["dropout"] = 0.9.into();
    let tokenizer = opened(&json).expect("a tokenizer");
    let text = "the same words, again and again: hello there, good day, number 12345";
    let ids = plain.encode(text, true).expect("ids");
    for _ in 0..5 {
        assert_eq!(tokenizer.encode(text, true).expect("ids"), ids);
        assert_eq!(tokenizer.encode(text, false).expect("ids"), plain.encode(text, false).expect("ids"));
    }
    assert!(tokenizer.to_json().expect("JSON").contains("\"dropout\":null"));
}

#[test]
fn ids_with_holes_reach_past_the_number_of_tokens() {
    let mut json = fixture();
    let token = last_tokens(&json).remove(0);
    json["model"]["vocab"][&token] = 1000.into();
    let tokenizer = opened(&json).expect("a tokenizer");
    assert!(tokenizer.check_ids(1001).is_ok());
    let told = tokenizer.check_ids(1000).expect_err("refused").to_string();
    let words =
        format!("tokenizer.json: the token {token:?} has the id 1000, but the model's vocabulary has 1000 rows");
    assert!(told.contains(&words), "{told}");
}

#[test]
fn an_id_is_one_token_s() {
    let mut json = fixture();
    let tokens = last_tokens(&json);
    json["model"]["vocab"][&tokens[0]] = json["model"]["vocab"][&tokens[1]].clone();
    let told = opened(&json).expect_err("refused").to_string();
    assert!(told.contains("to two tokens, ") && tokens.iter().all(|t| told.contains(&format!("{t:?}"))), "{told}");
}

#[test]
fn flags_of_another_type_are_refused() {
    let metadata = GgufMetadata::from([("tokenizer.ggml.add_bos_token".to_owned(), Value::U32(0))]);
    let gguf = Gguf { path: Path::new("m.gguf"), metadata: &metadata };
    let told = gguf.flag("tokenizer.ggml.add_bos_token").expect_err("refused").to_string();
    assert_eq!(told, "m.gguf: tokenizer.ggml.add_bos_token is U32(0), expected true or false");
    assert_eq!(gguf.flag("tokenizer.ggml.add_eos_token").expect("absent"), None);
}

#[test]
fn a_vocabulary_of_very_long_pieces_is_refused() {
    let long = "x".repeat(1 << 20);
    let list = |values: Vec<Value>| Value::Array(values);
    let metadata = GgufMetadata::from([
        ("tokenizer.ggml.model".to_owned(), Value::String("llama".into())),
        ("tokenizer.ggml.tokens".to_owned(), list(vec![Value::String("x".into()), Value::String(long)])),
        ("tokenizer.ggml.scores".to_owned(), list(vec![Value::F32(0.0), Value::F32(1.0)])),
    ]);
    let told = Tokenizer::from_gguf("m.gguf", &metadata).expect_err("refused").to_string();
    assert!(told.contains("tokens that are too long, up to 1048576 bytes"), "{told}");
}
