#!/usr/bin/env python3
"""What a suite asks of large models: tokens, memory, and the least time and money. Arithmetic, no measurement.

    benches/large/at_scale.py            the tables
    benches/large/at_scale.py --write    into docs/explanation/at-scale.md

Change SUITE, PRICES and EFFICIENCY for your own. Speeds of GPUs are their makers' (dense bf16 or fp8, and bandwidth of memory).
"""
import argparse
import math
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "benches"))
import tables  # noqa: E402

PAGE = ROOT / "docs/explanation/at-scale.md"

# A suite: control and target cases, and tokens of a prompt and of an answer.
SUITE = {"control": 300, "target": 100, "prompt": 150, "answer": 60}
ARMS = 2
# Of the maker's speed: products of a prompt, and bandwidth while decoding. Measured by nobody here.
EFFICIENCY = {"prefill": 0.40, "decode": 0.50}
# Requests at once.
BATCH = 64
# name: TFLOP/s in bf16 and in fp8, GB of memory, TB/s, and dollars an hour that the page assumes.
GPUS = {
    "RTX 4090": (165, 330, 24, 1.01, 0.50),
    "H100": (989, 1979, 80, 3.35, 2.50),
    "H200": (989, 1979, 141, 4.80, 3.50),
}
# name: parameters, of those that a token meets, layers, values of a token's cache in a layer, bytes of a weight, GPU, and how many.
# Llama's cache has 8 heads of 128 for keys and for values; DeepSeek's latent has 512 values and 64 for positions.
MODELS = {
    "8B (Llama 3.1), bf16": (8.03e9, 8.03e9, 32, 2 * 1024, 2, "RTX 4090", 1),
    "70B (Llama 3.1), bf16": (70.6e9, 70.6e9, 80, 2 * 1024, 2, "H100", 4),
    "405B (Llama 3.1), fp8": (405.9e9, 405.9e9, 126, 2 * 1024, 1, "H100", 8),
    "671B (DeepSeek-V3), fp8": (671e9, 37e9, 61, 576, 1, "H200", 8),
}


def tokens(suite=SUITE, arms=ARMS):
    """Tokens of prompts and of answers, and texts that are scored for drift; all arms together."""
    cases = suite["control"] + suite["target"]
    # Base's answers to the control cases, under every arm.
    return {"prompts": cases * suite["prompt"] * arms, "answers": cases * suite["answer"] * arms, "scored": suite["control"] * arms}


def needs(name, suite=SUITE, arms=ARMS):
    parameters, active, layers, values, width, gpu, count = MODELS[name]
    bf16, fp8, memory, bandwidth, price = GPUS[gpu]
    asked = tokens(suite, arms)
    speed = (fp8 if width == 1 else bf16) * 1e12 * count * EFFICIENCY["prefill"]
    bandwidth *= 1e12 * count * EFFICIENCY["decode"]
    context = suite["prompt"] + suite["answer"]
    # A text is scored alone, because vLLM's engine dies of two at once: at least all weights are read for it.
    scored = asked["scored"] * max(2 * active * context / speed, parameters * width / bandwidth)
    read = 2 * active * asked["prompts"] / speed
    cache = layers * values * 2
    # 64 sequences of a mixture of experts meet nearly all experts.
    step = (parameters * width + BATCH * context * cache) / bandwidth
    written = math.ceil(asked["answers"] / BATCH) * step
    seconds = read + written + scored
    return {"weights": parameters * width / 1e9, "cache": cache / 1e3, "held": BATCH * context * cache / 1e9, "gpus": f"{count} × {gpu}",
            "memory": count * memory, "read": read, "written": written, "scored": scored, "seconds": seconds,
            "dollars": seconds / 3600 * price * count, "price": price * count}


def table():
    text = ("| Model | Weights | Cache of a token | of 64 cases | GPUs | Memory | Prompts | Answers | Drift | Together | $ an hour | Cost |\n"
            "|---|--:|--:|--:|---|--:|--:|--:|--:|--:|--:|--:|\n")
    for name in MODELS:
        n = needs(name)
        text += (f"| {name} | {n['weights']:.0f} GB | {n['cache']:.0f} kB | {n['held']:.1f} GB | {n['gpus']} | {n['memory']} GB | {n['read']:.0f} s "
                 f"| {n['written']:.0f} s | {n['scored']:.0f} s | {n['seconds']:.0f} s | {n['price']:.2f} | ${n['dollars']:.2f} |\n")
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    if not parser.parse_args().write:
        print(tokens())
        print(table())
        return
    tables.put(PAGE, "at_scale.py", table())


if __name__ == "__main__":
    main()
