//! What a GGUF file's layers take of a GPU's memory, from its header alone.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::model::formats::gguf::Header;
use crate::model::formats::mapped::map_file;

/// Bytes of a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Layer {
    pub(crate) weights: u64,
    /// Keys and values of one token, in f32.
    pub(crate) cache: u64,
}

/// Bytes of a model, layer by layer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Memory {
    pub(crate) blocks: Vec<Layer>,
    /// The last norm and the head; of a tied one the embedding once more.
    pub(crate) head: u64,
    /// Logits of one token.
    pub(crate) logits: u64,
}

/// Of what is on a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Needed {
    pub(crate) weights: u64,
    pub(crate) cache: u64,
    pub(crate) logits: u64,
}

impl Needed {
    pub(crate) fn all(self) -> u64 {
        self.weights.saturating_add(self.cache).saturating_add(self.logits)
    }
}

impl Memory {
    /// That of a GGUF file.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn of(path: &Path) -> Result<Self> {
        let map = map_file(path)?;
        Ok(Self::of_header(&Header::read(path, &map)?, map.len()))
    }

    fn of_header(header: &Header, len: usize) -> Self {
        let mut memory = Self::default();
        let order = header.in_order();
        // A tensor ends where the next begins, so that a type which only llama.cpp knows has its bytes too.
        let starts = order.iter().map(|(_, info)| header.start(info).unwrap_or(len).min(len));
        let ends = starts.clone().skip(1).chain([len]);
        let (mut embedding, mut has_head) = (0, false);
        for (((name, info), start), end) in order.iter().zip(starts).zip(ends) {
            let bytes = end.saturating_sub(start) as u64;
            let block = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
            match block.and_then(|(number, module)| Some((number.parse::<usize>().ok()?, module))) {
                Some((number, module)) if number < header.tensors.len() => {
                    if memory.blocks.len() <= number {
                        memory.blocks.resize(number + 1, Layer::default());
                    }
                    let layer = &mut memory.blocks[number];
                    layer.weights += bytes;
                    let out = info.shape.first().copied().unwrap_or(0) as u64;
                    layer.cache += match module {
                        // Compressed keys and values of latent attention, and those of a fused projection at most.
                        "attn_k.weight" | "attn_v.weight" | "attn_kv_a_mqa.weight" | "attn_qkv.weight" => out * 4,
                        _ => 0,
                    };
                }
                _ if name.as_str() == "token_embd.weight" => {
                    embedding = bytes;
                    memory.logits = info.shape.first().copied().unwrap_or(0) as u64 * 4;
                }
                _ => {
                    has_head |= name.as_str() == "output.weight";
                    memory.head += bytes;
                }
            }
        }
        memory.head += if has_head { 0 } else { embedding };
        memory
    }

    /// The most layers that there are to place: every block, and the head.
    pub(crate) fn layers(&self) -> u32 {
        u32::try_from(self.blocks.len() + 1).unwrap_or(u32::MAX)
    }

    /// What the last `layers` take, the head first, with a cache of `cells` tokens and logits of `rows`.
    pub(crate) fn needed(&self, layers: u32, cells: u64, rows: u64) -> Needed {
        let blocks = (layers as usize).saturating_sub(1).min(self.blocks.len());
        let on = &self.blocks[self.blocks.len() - blocks..];
        let head = if layers > 0 { self.head } else { 0 };
        Needed {
            weights: on.iter().map(|layer| layer.weights).fold(head, u64::saturating_add),
            cache: on.iter().map(|layer| layer.cache.saturating_mul(cells)).fold(0, u64::saturating_add),
            logits: if layers > 0 { self.logits.saturating_mul(rows) } else { 0 },
        }
    }

    /// The most layers that `free` bytes have room for.
    pub(crate) fn fitting(&self, free: u64, cells: u64, rows: u64) -> u32 {
        (1..=self.layers()).rev().find(|n| self.needed(*n, cells, rows).all() <= free).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::decoder::parity::fixture;

    fn three() -> Memory {
        let layer = |weights| Layer { weights, cache: 2 };
        Memory { blocks: vec![layer(10), layer(20), layer(30)], head: 100, logits: 4 }
    }

    #[test]
    fn the_head_comes_first_and_the_last_blocks_after_it() {
        let weights = [0, 100, 130, 150, 160, 160].into_iter().enumerate();
        for (layers, expected) in weights {
            assert_eq!(three().needed(layers as u32, 0, 0).weights, expected, "{layers} layers");
        }
        assert_eq!(three().needed(3, 5, 7), Needed { weights: 150, cache: 20, logits: 28 });
    }

    #[test]
    fn as_many_layers_fit_as_there_is_memory_for() {
        for (free, expected) in [(99, 0), (100, 1), (129, 1), (131, 2), (160, 4), (9_999, 4)] {
            assert_eq!(three().fitting(free, 0, 0), expected, "{free} bytes");
        }
    }

    #[test]
    fn the_layers_of_a_file_are_all_of_its_bytes() {
        for family in ["llama", "qwen2", "qwen3"] {
            let path = fixture(&format!("{family}/model.gguf"));
            let (memory, file) =
                (Memory::of(&path).expect("a header"), std::fs::metadata(&path).expect("a file").len());
            let all = memory.needed(memory.layers(), 0, 0).weights;
            // The metadata is no weight, and a tied head counts although it is in the file once.
            assert!(all > file / 2 && all < file * 2, "{family}: {all} of {file}");
            assert!(memory.blocks.iter().all(|layer| layer.weights > 0 && layer.cache > 0), "{family}: {memory:?}");
            assert!(memory.logits > 0, "{family}");
        }
    }
}
