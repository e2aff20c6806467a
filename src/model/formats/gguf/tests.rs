use std::io::Cursor;
use std::path::PathBuf;

use candle_core::quantized::gguf_file::Content;

use super::*;
use crate::model::decoder::parity::fixture;

fn read(bytes: &[u8]) -> Result<Header> {
    Header::read(Path::new("m.gguf"), bytes)
}

fn files() -> Vec<PathBuf> {
    let folders = ["llama", "qwen2", "gemma3_text", "falcon", "deepseek_v2", "gpt2"].map(|f| format!("{f}/model.gguf"));
    let vocabularies = ["llama-spm", "qwen2", "deepseek-v3"].map(|name| format!("vocab/{name}.gguf"));
    folders.iter().chain(&vocabularies).map(|name| fixture(name)).collect()
}

/// Headers are the same as candle's own reader makes of them.
#[test]
fn a_header_is_read_as_candle_reads_it() {
    for path in files() {
        let bytes = std::fs::read(&path).expect("a file");
        let (own, theirs) =
            (read(&bytes).expect("a header"), Content::read(&mut Cursor::new(&bytes)).expect("a header"));
        assert_eq!(own.data, theirs.tensor_data_offset, "{}", path.display());
        assert_eq!(own.metadata.len(), theirs.metadata.len());
        for (key, value) in &theirs.metadata {
            assert_eq!(format!("{:?}", own.metadata[key]), format!("{value:?}"), "{key}");
        }
        assert_eq!(own.tensors.len(), theirs.tensor_infos.len());
        for (name, theirs) in &theirs.tensor_infos {
            let own = &own.tensors[name];
            assert_eq!(own.kind.candle(), Some(theirs.ggml_dtype), "{name}");
            assert_eq!((own.shape.as_slice(), own.offset), (theirs.shape.dims(), theirs.offset), "{name}");
        }
    }
}

/// Cut anywhere, or with any byte of the header changed, a file is refused or read, and never ends the process.
#[test]
fn a_damaged_header_is_an_error_and_no_panic() {
    let bytes = std::fs::read(fixture("llama/model.gguf")).expect("a file");
    let header = usize::try_from(read(&bytes).expect("a header").data).expect("a size");
    for len in (0..header - ALIGNMENT as usize).step_by(7) {
        let message = read(&bytes[..len]).err().expect("must be refused").to_string();
        assert!(message.contains("truncated or corrupt"), "{message}");
    }
    for at in (4..header).step_by(11) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0xff;
        let _ = read(&damaged);
    }
}

#[test]
fn impossible_headers_are_refused_with_what_is_wrong() {
    let bytes = |version: u32, tensors: u64, values: u64, rest: &[u8]| {
        let start =
            [b"GGUF".as_slice(), &version.to_le_bytes(), &tensors.to_le_bytes(), &values.to_le_bytes()].concat();
        [&start, rest, &[0u8; 64]].concat()
    };
    let key =
        |name: &str, kind: u32| [&(name.len() as u64).to_le_bytes(), name.as_bytes(), &kind.to_le_bytes()].concat();
    let alignment = |n: u32| [key("general.alignment", 4), n.to_le_bytes().to_vec()].concat();
    let nested = [key("k", 9), [9u32.to_le_bytes().as_slice(), &1u64.to_le_bytes()].concat().repeat(5)].concat();
    let tensor = [3u64.to_le_bytes().as_slice(), b"abc", &9u32.to_le_bytes()].concat();
    let flat =
        [3u64.to_le_bytes().as_slice(), b"abc", &2u32.to_le_bytes(), &(1u64 << 60).to_le_bytes(), &[0; 8]].concat();
    let cases: [(Vec<u8>, &str); 12] = [
        (b"safetensors".to_vec(), "does not begin with `GGUF`"),
        (bytes(1, 0, 0, &[]), "has another version: the number is 1, expected 2 or 3; convert the model again"),
        (bytes(3u32.swap_bytes(), 0, 0, &[]), "is big-endian"),
        (bytes(3, u64::MAX, 0, &[]), "18446744073709551615 tensors, expected at most"),
        (bytes(3, 0, 1 << 40, &[]), "1099511627776 values, expected at most"),
        (bytes(3, 0, 1 << 20, &[]), "1048576 values cannot lie in the"),
        (bytes(3, 0, 1, &alignment(0)), "general.alignment is 0, expected a power of 2"),
        (bytes(3, 0, 2, &[alignment(32), alignment(32)].concat()), "`general.alignment` is there twice"),
        (bytes(3, 0, 1, &nested), "metadata `k`: lists lie in each other more than 4 deep"),
        (bytes(3, 0, 1, &key("k", 13)), "metadata `k`: a value's type is 13, expected 0 to 12"),
        (bytes(3, 1, 0, &flat), "tensor `abc`: a dimension is 0"),
        (bytes(3, 1, 0, &tensor), "tensor `abc`: it has 9 dimensions, expected at most 4"),
    ];
    for (bytes, expected) in cases {
        let message = read(&bytes).err().expect("must be refused").to_string();
        assert!(message.contains(expected), "{message}");
    }
}
