"""What finetest is compared with: PEFT's training, transformers' scoring and decoding, and what the machine can do at most.

    python peers.py convert MODEL.gguf HF_DIR      the GGUF's weights in f32, as a directory of transformers
    python peers.py facts HF_DIR                   its layers, as counts of operations need them
    python peers.py limits                         matrix products and memory
    python peers.py work HF_DIR WORK.json [bf16]   what `benches/speed.rs` does with the same tokens

The last two do a repetition for each line on stdin and answer with a line of JSON. In bf16 training is under autocast.
"""
import itertools
import json
import os
import sys
import time

from quiet import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RANK = 16


def convert(gguf, out):
    folder, name = os.path.split(gguf)
    tok = AutoTokenizer.from_pretrained(folder or ".", gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(folder or ".", gguf_file=name, dtype=torch.float32)
    # Else it is saved as a quantised model, which it is no longer.
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(out)
    tok.save_pretrained(out)


def facts(path):
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    linear = [m for n, m in model.named_modules() if n.rpartition(".")[2] in LINEAR]
    c, head = model.config, model.get_output_embeddings().weight.numel()
    print(json.dumps({
        "parameters": sum(p.numel() for p in model.parameters()),
        "linear": sum(m.weight.numel() for m in linear),
        "lora": RANK * sum(m.in_features + m.out_features for m in linear),
        "head": head,
        "vocabulary": c.vocab_size,
        "layers": c.num_hidden_layers,
        "attention": c.num_attention_heads * (getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads),
    }))


def timed(work):
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def limits():
    """The best of two libraries: one alone may have no good kernel for this processor. In bf16 where the processor has units for it."""
    import numpy as np

    with open("/proc/cpuinfo") as f:
        bf16 = any(unit in ("avx512_bf16", "amx_bf16") for unit in f.read().split())

    def product(shape, library):
        n, k, m = shape
        a, b = torch.randn(n, k), torch.randn(k, m)
        if library == "numpy":
            a, b = a.numpy(), b.numpy()
        multiply = torch.mm if library == "torch" else np.matmul
        times = max(1, round(4e10 / (2 * n * k * m)))
        seconds, _ = timed(lambda: [multiply(a, b) for _ in range(times)])
        return times * 2 * n * k * m / seconds / 1e9

    def product_bf16(shape):
        n, k, m = shape
        a, b = torch.randn(n, k).bfloat16(), torch.randn(k, m).bfloat16()
        times = max(1, round(4e10 / (2 * n * k * m)))
        seconds, _ = timed(lambda: [torch.mm(a, b) for _ in range(times)])
        return times * 2 * n * k * m / seconds / 1e9

    x = torch.ones(1 << 28)
    y = torch.empty_like(x)

    def all_of_them():
        rates = {}
        for shape in ((1024, 1024, 1024), (1024, 576, 1536), (1024, 1536, 576), (1024, 576, 49152)):
            for library in ("torch", "numpy"):
                rates[f"product {'×'.join(map(str, shape))}, {library}"] = product(shape, library)
            if bf16:
                rates[f"bf16 product {'×'.join(map(str, shape))}, torch"] = product_bf16(shape)
        rates["memory read"] = max(x.numel() * 4 / timed(x.sum)[0] / 1e9 for _ in range(3))
        rates["memory copy"] = max(2 * x.numel() * 4 / timed(lambda: y.copy_(x))[0] / 1e9 for _ in range(3))
        return rates

    def once():
        seconds, rates = timed(all_of_them)
        return {"units": 1, "seconds": seconds, "rates": rates}

    return once


def train(path, steps, bf16):
    from peft import LoraConfig, get_peft_model

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    tuned = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=32, lora_dropout=0.0, target_modules=LINEAR, task_type="CAUSAL_LM"))
    tuned.train()
    optimizer = torch.optim.AdamW([p for p in tuned.parameters() if p.requires_grad], lr=1e-5, weight_decay=0.0)
    batches = itertools.cycle(steps)

    def step(examples):
        longest = max(len(ids) for ids, _ in examples)
        ids = torch.full((len(examples), longest), 2)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for row, (tokens, prompt) in enumerate(examples):
            n = len(tokens)
            ids[row, :n] = torch.tensor(tokens)
            mask[row, :n] = 1
            labels[row, prompt:n] = ids[row, prompt:n]
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = tuned(input_ids=ids, attention_mask=mask, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return [loss.item()]

    def once():
        examples = next(batches)
        seconds, result = timed(lambda: step(examples))
        return {"units": sum(len(ids) for ids, _ in examples), "seconds": seconds, "result": result}

    return once


def score(path, sequences, bf16):
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16 if bf16 else torch.float32).eval()

    @torch.inference_mode()
    def work():
        ids = torch.tensor(sequences)
        logits = model(ids, use_cache=False).logits
        found = F.log_softmax(logits[:, :-1].float(), -1).gather(-1, ids[:, 1:, None])
        return found[..., 0].mean(-1).tolist()

    def once():
        seconds, result = timed(work)
        return {"units": sum(map(len, sequences)), "seconds": seconds, "result": result}

    return once


def generate(path, prompts, tokens, bf16):
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16 if bf16 else torch.float32).eval()

    @torch.inference_mode()
    def work():
        ids = torch.tensor(prompts)
        # No token ends an answer, so that every one is as long.
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, eos_token_id=-1, pad_token_id=0)
        return out[:, ids.shape[1]:].flatten().tolist()

    def once():
        seconds, result = timed(work)
        return {"units": len(result), "seconds": seconds, "result": result}

    return once


def take_turns(once):
    for _ in sys.stdin:
        print(json.dumps(once()), flush=True)


def main():
    what, *rest = sys.argv[1:]
    if what == "convert":
        convert(*rest)
    elif what == "facts":
        facts(*rest)
    elif what == "limits":
        take_turns(limits())
    elif what == "work":
        path, bf16 = rest[0], rest[2:] == ["bf16"]
        with open(rest[1]) as f:
            (kind, work), = json.load(f).items()
        if kind == "generate":
            take_turns(generate(path, *work, bf16))
        else:
            take_turns({"train": train, "score": score}[kind](path, work, bf16))


main()
