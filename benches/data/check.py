#!/usr/bin/env python3
"""Time and memory of `finetest data check` on many short examples.

    benches/data/check.py [--finetest PROGRAM] [--work DIR] [--millions 1,10]

The examples are random words in prompts and answers, 215 bytes each, in JSON Lines. The last line is the memory of each example: what the largest
file takes more than the smallest, by the examples that it has more. 10 million examples are 2.1 GB on disk.
"""

import argparse
import pathlib
import random
import resource
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
WORDS = 20_000
PROMPT, ANSWER = 12, 14


def write(path, examples):
    rng = random.Random(1)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(rng.choices(letters, k=rng.randint(3, 9))) for _ in range(WORDS)]
    with path.open("w") as file:
        for _ in range(examples):
            prompt, answer = (" ".join(rng.choices(words, k=n)) for n in (PROMPT, ANSWER))
            file.write(f'{{"prompt": "{prompt}?", "completion": "{answer}."}}\n')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--finetest", default=str(ROOT / "target/release/finetest"))
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "target/data")
    parser.add_argument("--millions", default="1", help="sizes, ascending")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    seen = []
    for millions in args.millions.split(","):
        examples = round(float(millions) * 1e6)
        path = args.work / f"{examples}.jsonl"
        if not path.exists():
            write(path, examples)
        since = time.monotonic()
        subprocess.run([args.finetest, "data", "check", "-q", str(path)], check=True, stdout=subprocess.DEVNULL)
        # Of the largest child so far, which is this one: sizes ascend.
        memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        seen.append((examples, memory))
        print(f"{examples} examples, {path.stat().st_size / 1e6:.0f} MB: {time.monotonic() - since:.1f} s, {memory / 1e6:.0f} MB of memory")
    if len(seen) > 1:
        (few, less), (many, more) = seen[0], seen[-1]
        print(f"{(more - less) / (many - few):.0f} bytes for each example")


if __name__ == "__main__":
    main()
