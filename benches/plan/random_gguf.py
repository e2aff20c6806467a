#!/usr/bin/env python3
"""A GGUF file of random weights with the shape of a published model, to measure memory and time without a download.

    benches/plan/random_gguf.py --like SMALL.gguf --shape llama-3.1-8b --dtype q4_0 OUT.gguf

Every layer has the same random values. The tokenizer is that of SMALL.gguf, with unused tokens behind it. Needs numpy and gguf (PyPI).
"""

import argparse
import pathlib

import gguf
import numpy as np

# hidden, layers, heads, key-value heads, inner width, vocabulary, tied head
SHAPES = {
    "llama-3.2-1b": (2048, 16, 32, 8, 8192, 128256, True),
    "llama-3.1-8b": (4096, 32, 32, 8, 14336, 128256, False),
}
TYPES = {"f16": gguf.GGMLQuantizationType.F16, "q8_0": gguf.GGMLQuantizationType.Q8_0, "q4_0": gguf.GGMLQuantizationType.Q4_0}
CONTEXT = 8192


def random_matrix(rng, rows, cols, kind):
    values = rng.standard_normal((rows, cols), dtype=np.float32) * np.float32(0.02)
    return values.astype(np.float16) if kind == TYPES["f16"] else gguf.quants.quantize(values, kind)


def tokenizer(writer, like, vocabulary):
    fields = gguf.GGUFReader(like).fields
    text = lambda key: str(bytes(fields[key].parts[-1]), "utf-8")  # noqa: E731
    texts = lambda key: [str(bytes(fields[key].parts[i]), "utf-8") for i in fields[key].data]  # noqa: E731
    tokens = texts("tokenizer.ggml.tokens")
    types = [int(fields["tokenizer.ggml.token_type"].parts[i][0]) for i in fields["tokenizer.ggml.token_type"].data]
    spare = vocabulary - len(tokens)
    writer.add_tokenizer_model(text("tokenizer.ggml.model"))
    writer.add_tokenizer_pre(text("tokenizer.ggml.pre"))
    writer.add_token_list(tokens + [f"[PAD{i}]" for i in range(spare)])
    writer.add_token_types(types + [5] * spare)
    writer.add_token_merges(texts("tokenizer.ggml.merges"))
    for name in ("bos", "eos", "padding"):
        key = f"tokenizer.ggml.{name}_token_id"
        if key in fields:
            writer.add_uint32(key, int(fields[key].parts[-1][0]))
    if "tokenizer.chat_template" in fields:
        writer.add_chat_template(text("tokenizer.chat_template"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--like", type=pathlib.Path, required=True)
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--dtype", choices=TYPES, default="q4_0")
    parser.add_argument("out", type=pathlib.Path)
    args = parser.parse_args()
    hidden, layers, heads, kv_heads, inner, vocabulary, tied = SHAPES[args.shape]
    kind, rng = TYPES[args.dtype], np.random.default_rng(1)
    writer = gguf.GGUFWriter(args.out, "llama")
    writer.add_name(f"random {args.shape}")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(hidden // heads)
    writer.add_rope_freq_base(500000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocabulary)
    tokenizer(writer, args.like, vocabulary)
    kv = hidden // heads * kv_heads
    matrices = {
        "attn_q": (hidden, hidden),
        "attn_k": (kv, hidden),
        "attn_v": (kv, hidden),
        "attn_output": (hidden, hidden),
        "ffn_gate": (inner, hidden),
        "ffn_up": (inner, hidden),
        "ffn_down": (hidden, inner),
    }
    matrices = {name: random_matrix(rng, *shape, kind) for name, shape in matrices.items()}
    table = random_matrix(rng, vocabulary, hidden, kind)
    ones = np.ones(hidden, dtype=np.float32)
    add = lambda name, value: writer.add_tensor(name, value, raw_dtype=kind if value.ndim == 2 else None)  # noqa: E731
    add("token_embd.weight", table)
    if not tied:
        add("output.weight", table)
    add("output_norm.weight", ones)
    for layer in range(layers):
        add(f"blk.{layer}.attn_norm.weight", ones)
        add(f"blk.{layer}.ffn_norm.weight", ones)
        for name, value in matrices.items():
            add(f"blk.{layer}.{name}.weight", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file(progress=True)
    writer.close()


if __name__ == "__main__":
    main()
