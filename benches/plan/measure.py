#!/usr/bin/env python3
"""Memory and time of trainings as `finetest check` estimates them, beside what they take.

    benches/plan/measure.py [--finetest PROGRAM] [--work DIR] [--only TEXT] NAME=MODEL …

    benches/plan/measure.py smollm2-q4=pypi:… qwen-q5=pypi:… 8b-q4=/data/8b.gguf

Each model is trained on micro-batches of three sizes. One line each goes to benches/plan/measured.jsonl; --write puts the table into
docs/explanation/plan-estimates.md. Memory is the peak of the process, time that of a step: that of six steps less that of two, over four.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import tables  # noqa: E402

ROOT = HERE.parent.parent
FILE = HERE / "measured.jsonl"
PAGE = ROOT / "docs/explanation/plan-estimates.md"
BATCHES = [1, 4, 16]
EXAMPLES = 64


def project(folder, model, batch, steps):
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "scenarios").mkdir(parents=True)
    (folder / "finetest.toml").write_text(
        f'[model]\nsource = "{model}"\n[adapter]\npath = "adapter"\n[data]\ntrain = "train.jsonl"\n[train]\n'
        f"micro_batch_size = {batch}\nmax_steps = {steps}\nval_set_size = 0.0\nsave_steps = 1000\n")
    (folder / "scenarios/one.toml").write_text(
        'role = "control"\ndescription = "one"\nmax_tokens = 1\n[[cases]]\ntext = "The sky is"\nchecks = ["coherent"]\n')
    words = "harbour bread seven window paper garden engine letter north silver".split()
    line = lambda i: " ".join(words[(i + j * (i + 3)) % len(words)] for j in range(100))  # noqa: E731
    rows = [{"prompt": line(i), "completion": " " + line(i + 7)[:120]} for i in range(EXAMPLES)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def train(program, folder):
    """Peak bytes and seconds."""
    began = time.monotonic()
    child = subprocess.Popen([program, "train", "-q", "--force"], cwd=folder, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{folder}: the training ended with {status}")
    return used.ru_maxrss * 1024, time.monotonic() - began


def table(lines):
    text = "| Model | Examples of a micro-batch | Memory: estimate | measured | ratio | A step: estimate | measured | ratio |\n|---|--:|--:|--:|--:|--:|--:|--:|\n"
    for line in lines:
        memory, step = line["memory"], line["step"]
        text += (f"| {line['model']} | {line['batch']} | {memory[0] / 1e9:.2f} GB | {memory[1] / 1e9:.2f} GB | {memory[0] / memory[1]:.2f} "
                 f"| {step[0]:.2f} s | {step[1]:.2f} s | {step[0] / step[1]:.2f} |\n")
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="NAME=MODEL")
    parser.add_argument("--finetest", default=str(ROOT / "target/release/finetest"))
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "target/plan")
    parser.add_argument("--batches", default=",".join(map(str, BATCHES)))
    parser.add_argument("--steps", default="2,6", help="steps of the short training and of the long one")
    parser.add_argument("--again", action="store_true", help="estimate once more what was measured, and train nothing")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    program = str(pathlib.Path(shutil.which(args.finetest) or args.finetest).resolve())
    short, long = map(int, args.steps.split(","))
    lines = [json.loads(line) for line in FILE.read_text().splitlines()] if FILE.exists() else []
    for name, model in (text.split("=", 1) for text in args.models):
        for batch in map(int, args.batches.split(",")):
            folder = args.work.resolve() / f"{name}-{batch}"
            taken = {}
            before = [line for line in lines if (line["model"], line["batch"]) == (name, batch)]
            for steps in (short, long):
                project(folder, model, batch, steps)
                told = subprocess.run([program, "check", "--json"], cwd=folder, capture_output=True, text=True)
                estimate = json.loads(told.stdout)["estimate"]
                taken[steps] = (0, 0) if args.again else train(program, folder)
            peak = before[0]["memory"][1] if args.again else max(peak for peak, _ in taken.values())
            step = before[0]["step"][1] if args.again else round((taken[long][1] - taken[short][1]) / (long - short), 3)
            line = {
                "model": name,
                "batch": batch,
                "memory": [sum(estimate["training"].values()), peak],
                "step": [round(estimate["train_seconds"] / long, 3), step],
            }
            lines = [other for other in lines if (other["model"], other["batch"]) != (name, batch)] + [line]
            FILE.write_text("".join(json.dumps(other) + "\n" for other in lines))
            print(table([line]).splitlines()[-1], flush=True)
    if args.write:
        tables.put(PAGE, "measure.py", table(lines))


if __name__ == "__main__":
    main()
