#!/usr/bin/env python3
"""Large models on a CPU: finetest on candle and on llama.cpp, in turns, with the same GGUF file of random weights.

    benches/large/measure.py [--shape llama-3.2-1b,llama-3.1-8b] [--repeats 3] [--only NAME,…] [--work DIR] [--write]

Makes the files (benches/plan/random_gguf.py; needs numpy and gguf of PyPI, and SMALL.gguf for a tokenizer), builds what it runs, and adds a
line for each work to benches/large/measured.jsonl. --write puts the table into docs/how-to/large-models-on-a-laptop.md. Works: prefill,
decode1, decode16, score, train-128, train-512, train-512-checkpointing. llama.cpp trains in windows of 256 tokens, and has no checkpointing.
"""
import argparse
import array
import datetime
import json
import pathlib
import random
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT / "benches"), str(ROOT / "benches/peers"), str(ROOT / "benches/plan")]
import tables  # noqa: E402
from turns import CORES, QUIET, Turns, Worker, repetition  # noqa: E402

FILE = HERE / "measured.jsonl"
PAGE = ROOT / "docs/how-to/large-models-on-a-laptop.md"
RANK = 16
# Of the prompt, and of answers: what the works are made of.
PREFILL, SHORT, ANSWER = 256, 8, 16
NAMES = ("prefill", "decode1", "decode16", "score", "train-128", "train-512", "train-512-checkpointing")
SHOWN = {
    "prefill": f"prompt of {PREFILL} tokens",
    "decode1": "decoding, one answer",
    "decode16": "decoding, 16 answers",
    "score": "scoring, 2 × 128 tokens",
    "train-128": "QLoRA step, 128 tokens",
    "train-512": "QLoRA step, 512 tokens",
    "train-512-checkpointing": "the same, `gradient_checkpointing`",
}


def works(vocabulary):
    """{name: work} as benches/speed.rs reads it. A quarter of an example's tokens is learnt."""
    rng = random.Random(20)
    ids = lambda n: [rng.randrange(5, min(40_000, vocabulary)) for _ in range(n)]  # noqa: E731
    train = lambda n: [[[ids(n), n * 3 // 4]]]  # noqa: E731
    return {
        "prefill": {"generate": [[ids(PREFILL)], 1]},
        "decode1": {"generate": [[ids(SHORT)], ANSWER]},
        "decode16": {"generate": [[ids(SHORT) for _ in range(16)], ANSWER]},
        "score": {"score": [ids(128) for _ in range(2)]},
        "train-128": {"train": train(128)},
        "train-512": {"train": train(512)},
        "train-512-checkpointing": {"train-checkpointing": train(512)},
    }


def operations(name, work, shape):
    """Floating-point operations of matrix products and attention in one repetition, those that are done twice counted twice."""
    hidden, layers, _, kv_heads, inner, vocabulary, _ = shape
    heads = shape[2]
    kv = hidden // heads * kv_heads
    linear = layers * (2 * hidden * hidden + 2 * kv * hidden + 3 * inner * hidden)
    head = vocabulary * hidden
    sides = layers * (2 * 2 * hidden + 2 * (hidden + kv) + 3 * (inner + hidden)) * RANK
    (kind, what), = work.items()
    pairs = lambda n: n * (n + 1) // 2  # noqa: E731
    if kind == "generate":
        prompts, tokens = what
        run = sum(len(p) + tokens - 1 for p in prompts)
        seen = sum(pairs(len(p) + tokens - 1) for p in prompts)
        return 2 * linear * run + 2 * head * tokens * len(prompts) + 4 * hidden * layers * seen
    if kind == "score":
        run, seen = sum(len(s) - 1 for s in what), sum(pairs(len(s) - 1) for s in what)
        return 2 * (linear + head) * run + 4 * hidden * layers * seen
    (ids, prompt), = what[0]
    learnt, forward = len(ids) - prompt, 2 if kind.endswith("checkpointing") else 1
    once = 2 * linear * len(ids) + 4 * hidden * layers * pairs(len(ids))
    return once * (forward + 1) + 2 * 2 * head * learnt + 3 * 2 * sides * len(ids)


class Answers(Worker):
    """Answers and scores."""

    def __init__(self, finetest, model, work, log):
        super().__init__(finetest, log)
        (self.kind, self.work), = work.items()
        self.open(model, len(self.work[0]) if self.kind == "generate" else len(self.work))

    def once(self):
        if self.kind == "generate":
            return self.generate(*self.work)
        items = [{"arm": 0, "prompt": ids[:1], "tokens": ids[1:]} for ids in self.work]
        replies, done = self.timed({"Score": {"items": items}}, sum(map(len, self.work)))
        scores = dict(reply["Scored"] for reply in replies if "Scored" in reply)
        return {**done, "result": [scores[i] / (len(ids) - 1) for i, ids in enumerate(self.work)]}


class Descents(Worker):
    """Loss and gradients of an adapter whose B is zero, as at the first step."""

    def __init__(self, finetest, model, adapter, work, log, folder):
        super().__init__(finetest, log)
        ((ids, prompt),), = work["train"]
        window = -(-len(ids) // 256) * 256
        self.tokens = len(ids)
        opening = {"model": str(model), "adapter": str(adapter), "window": window, "threads": CORES, "log": "OFF"}
        tensors, = (reply["Tensors"] for reply in self.job({"OpenTraining": opening}) if "Tensors" in reply)
        rng = random.Random(1)
        with open(folder / "parameters", "wb") as out:
            for name, size in tensors:
                zero = name.endswith("lora_b")
                array.array("f", [0.0] * size if zero else [rng.uniform(-0.02, 0.02) for _ in range(size)]).tofile(out)
        fill = window - len(ids)
        learnt = len(ids) - prompt
        weights = [1 / learnt if prompt <= i + 1 < len(ids) else 0.0 for i in range(window)]
        self.window = {"tokens": ids + [0] * fill, "labels": ids[1:] + [0] * (fill + 1), "weights": weights,
                       "segments": [0] * len(ids) + [1] * fill, "positions": list(range(len(ids))) + list(range(fill))}
        self.files = {"parameters": str(folder / "parameters"), "gradients": str(folder / "gradients")}

    def once(self):
        replies, done = self.timed({"Descend": {**self.files, "windows": [self.window]}}, self.tokens)
        return {**done, "result": [reply["Loss"] for reply in replies if "Loss" in reply]}


def peak():
    """A product of f32 matrices for each line on stdin: the best library that is at hand."""
    import numpy as np
    a, b = (np.random.default_rng(1).standard_normal((2048, 2048), dtype=np.float32) for _ in range(2))
    for _ in sys.stdin:
        times, started = 20, time.monotonic()
        for _ in range(times):
            np.matmul(a, b)
        print(json.dumps({"units": times * 2 * 2048**3 / 1e9, "seconds": time.monotonic() - started}), flush=True)


def adapter(path, shape):
    """A LoRA of rank 16 on every linear layer, as llama.cpp reads it."""
    import gguf
    import numpy as np
    hidden, layers, heads, kv_heads, inner, _, _ = shape
    kv = hidden // heads * kv_heads
    sides = {"attn_q": (hidden, hidden), "attn_k": (kv, hidden), "attn_v": (kv, hidden), "attn_output": (hidden, hidden),
             "ffn_gate": (inner, hidden), "ffn_up": (inner, hidden), "ffn_down": (hidden, inner)}
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(RANK))
    for layer in range(layers):
        for name, (out, into) in sides.items():
            writer.add_tensor(f"blk.{layer}.{name}.weight.lora_a", np.full((RANK, into), 0.01, dtype=np.float32))
            writer.add_tensor(f"blk.{layer}.{name}.weight.lora_b", np.zeros((out, RANK), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def build():
    command = ["cargo", "build", "--release", "--locked", "--features", "llama-cpp", "--bin", "finetest", "--bench", "speed",
               "--message-format", "json-render-diagnostics"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    made = {m["target"]["name"]: m["executable"] for m in messages if m.get("executable")}
    return made["finetest"], made["speed"]


def measure(name, work, model, shape, args, built):
    """Both sides and the product in turns: [{side: repetition}]."""
    finetest, speed = built
    folder, log = args.work, args.work / "log"
    path = folder / f"{name}.json"
    path.write_text(json.dumps(work))
    sides = {"finetest": Turns([speed, str(model), str(path)], log), "peak": Turns([sys.executable, __file__, "peak"], log)}
    (kind, _), = work.items()
    if kind == "train":
        sides["llama.cpp"] = Descents(finetest, model, args.work / f"{args.name}-adapter.gguf", work, log, folder)
    elif kind != "train-checkpointing":
        sides["llama.cpp"] = Answers(finetest, model, work, log)
    rounds, first = [], {}
    try:
        for turn in range(args.repeats + 1):
            found = {side: repetition(running, 20) for side, running in sides.items()}
            said = ", ".join(f"{side} {r['rate']:.2f}" for side, r in found.items())
            print(f"{datetime.datetime.now():%H:%M:%S}  {args.name} {name}: {said}{' (not counted)' if turn == 0 else ''}", flush=True)
            # The first one reads the file; both sides' adapters are without effect in it, so that their losses are the same.
            first = first or found
            rounds += [found] if turn else []
    finally:
        for running in sides.values():
            running.close()
    return summary(name, work, shape, (first, rounds), model, args)


def summary(name, work, shape, taken, model, args):
    first, rounds = taken
    quiet = [r for r in rounds if all(side["others"] < QUIET for side in r.values())]
    used = quiet or rounds
    median = lambda side, key: statistics.median(r[side][key] for r in used)  # noqa: E731
    flops = operations(name, work, shape)
    share = lambda side: statistics.median(flops / r[side]["seconds"] / 1e9 / r["peak"]["rate"] for r in used)  # noqa: E731
    tokens = PREFILL if name == "prefill" else None
    sides = {}
    for side in ("finetest", "llama.cpp"):
        if side in used[0]:
            seconds = median(side, "seconds")
            sides[side] = {"seconds": round(seconds, 3), "rate": round((tokens or used[0][side]["units"]) / seconds, 3),
                           "share": round(share(side), 3), "peak_mb": round(max(r[side]["peak_mb"] for r in used)),
                           "result": first[side].get("result") if "train" in name or name == "score" else None}
    ratio = None
    if "llama.cpp" in sides:
        ratio = round(statistics.median(r["llama.cpp"]["seconds"] / r["finetest"]["seconds"] for r in used), 3)
    return {"model": args.name, "work": name, "peak_gflops": round(median("peak", "rate"), 1), "rounds": len(used), "quiet": bool(quiet),
            "model_mb": round(model.stat().st_size / 1e6), "sides": sides, "times_as_fast_as_llama_cpp": ratio}


def table(lines):
    text = ("| Model | Work | finetest | of the product's peak | memory | llama.cpp | of the peak | memory | finetest is |\n"
            "|---|---|--:|--:|--:|--:|--:|--:|--:|\n")
    order = {name: i for i, name in enumerate(NAMES)}
    for line in sorted(lines, key=lambda l: (l["model_mb"], order[l["work"]])):
        def side(name):
            found = line["sides"].get(name)
            if not found:
                return "– | – | –"
            return f"{found['rate']:.1f} tokens/s | {100 * found['share']:.0f} % | {found['peak_mb'] / 1e3 * 1.048576:.1f} GB"
        ratio = line["times_as_fast_as_llama_cpp"]
        noisy = "" if line["quiet"] else "¹"
        text += (f"| {line['model']} | {SHOWN[line['work']]} | {side('finetest')} | {side('llama.cpp')} "
                 f"| {f'{ratio:.2f}×{noisy}' if ratio else '–'} |\n")
    return text


def main():
    if sys.argv[1:] == ["peak"]:
        return peak()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="llama-3.2-1b,llama-3.1-8b")
    parser.add_argument("--dtype", default="q4_0")
    parser.add_argument("--like", type=pathlib.Path, help="a small GGUF file whose tokenizer is taken")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default=",".join(NAMES))
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "target/large")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    args.work = args.work.resolve()
    args.work.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in FILE.read_text().splitlines()] if FILE.exists() else []
    built = None
    if args.only:
        # Its libraries are not needed to write the page.
        import random_gguf
        built = build()
    for shape in args.shape.split(",") if args.only else []:
        args.name = f"{shape}-{args.dtype}"
        model, facts = args.work / f"{args.name}.gguf", random_gguf.SHAPES[shape]
        if not model.exists():
            if not args.like:
                parser.error(f"{model} is not there; give --like SMALL.gguf to make it")
            subprocess.run([sys.executable, ROOT / "benches/plan/random_gguf.py", "--like", args.like, "--shape", shape, "--dtype",
                            args.dtype, model], check=True)
        if not (adapter_file := args.work / f"{args.name}-adapter.gguf").exists():
            adapter(adapter_file, facts)
        all_works = works(facts[5])
        for name in args.only.split(","):
            line = measure(name, all_works[name], model, facts, args, built)
            lines = [other for other in lines if (other["model"], other["work"]) != (line["model"], line["work"])] + [line]
            FILE.write_text("".join(json.dumps(other) + "\n" for other in lines))
    if args.write:
        tables.put(PAGE, "measure.py", table(lines))


if __name__ == "__main__":
    main()
