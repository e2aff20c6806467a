#!/usr/bin/env python3
"""Trainings of the default model that are made to go wrong, each in its own way, and what `finetest diagnose` says of them.

    benches/diagnosis/wrong.py [--finetest PROGRAM] [--work DIR] [--only NAME,NAME]

It fails where the sign of a run is not among those that are told. Two cores take about ten minutes for each half: the signs were written
with the runs of one task at hand, and those of the other task were kept for the test. The logs are kept in
tests/fixtures/training_logs/, where a test reads them.
"""

import argparse
import json
import pathlib
import random
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / "benches/detection"))
from tasks import MODEL, TASKS, make_task  # noqa: E402

LOGS = ROOT / "tests/fixtures/training_logs"
# Name: the sign that is right, keys of [train], and how the data are changed.
RUNS = {
    "well": (["falling", "plateau"], {"learning_rate": 5e-4, "max_steps": 60, "num_epochs": 10}, None),
    "diverged": (["diverged"], {"learning_rate": 0.5, "max_steps": 40, "num_epochs": 10, "max_grad_norm": 0.0, "warmup_steps": 0}, None),
    "rate-too-high": (["rate too high", "diverged"], {"learning_rate": 0.03, "max_steps": 60, "num_epochs": 10, "warmup_steps": 0}, None),
    "rate-too-low": (["rate too low"], {"learning_rate": 1e-6, "max_steps": 40, "num_epochs": 10}, None),
    "under-trained": (["under-trained"], {"learning_rate": 5e-5, "max_steps": 30, "num_epochs": 10}, None),
    "overfitting": (["overfitting"], {"learning_rate": 2e-3, "max_steps": 120, "num_epochs": 60, "eval_steps": 10}, "few"),
    "bad-example": (["one bad example", "jumping"], {"learning_rate": 3e-4, "max_steps": 96, "num_epochs": 6}, "bad"),
    "bad-batch": (["one batch stands out", "jumping", "one bad example"], {"learning_rate": 3e-4, "max_steps": 40, "num_epochs": 10}, "batch"),
}
BAD_LINE = 37
HALVES = {"tuned": "tickets", "held": "orders"}


def rows(task, change, rng, folder):
    make_task(folder / "task", TASKS[task], 1, 128, 1)
    made = [json.loads(line) for line in (folder / "task/train.jsonl").read_text().splitlines()]
    if change == "few":
        # Answers that nothing tells: they can be learnt by heart alone.
        for row in made:
            row["messages"][1]["content"] = f"Reference {rng.randrange(10**6):06d}."
        return made[:24]
    if change == "bad":
        made[BAD_LINE - 1]["messages"][1]["content"] = " ".join(rng.choice("qzxjkv") * 3 + str(rng.randrange(1000)) for _ in range(60))
    if change == "batch":
        for row in made[40:44]:
            row["messages"][1]["content"] = " ".join(rng.choice("qzxjkv") * 3 + str(rng.randrange(1000)) for _ in range(40))
    return made


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--finetest", default=str(ROOT / "target/release/finetest"))
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "target/diagnosis")
    parser.add_argument("--only", default=",".join(RUNS))
    parser.add_argument("--half", choices=HALVES, default="tuned", help="the runs that the signs were written with, or the others")
    args = parser.parse_args()
    program = str(pathlib.Path(shutil.which(args.finetest) or args.finetest).resolve())
    logs = LOGS / args.half
    logs.mkdir(parents=True, exist_ok=True)
    wrong = 0
    for name in args.only.split(","):
        signs, keys, change = RUNS[name]
        folder = args.work.resolve() / args.half / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(HALVES[args.half], change, random.Random(name), folder)))
        share = 0.25 if change == "few" else 0.1
        (folder / "finetest.toml").write_text(
            f'[model]\nsource = "{MODEL}"\n[adapter]\npath = "adapter"\n[data]\ntrain = "train.jsonl"\n'
            f"[train]\nmicro_batch_size = 8\nbf16 = \"auto\"\nval_set_size = {share}\n"
            + "".join(f"{key} = {value}\n" for key, value in keys.items()))
        done = subprocess.run([program, "train", "-q"], cwd=folder, capture_output=True, text=True)
        # A training whose loss is no number ends by itself, and its checkpoint has the log.
        at = folder / "adapter"
        if done.returncode:
            states = sorted(folder.glob(".finetest/checkpoints/*/checkpoint-*/trainer_state.json"), key=lambda p: int(p.parent.name.split("-")[1]))
            if not states:
                print(f"{name:14} ended at once: {done.stderr.strip().splitlines()[-1]}")
                wrong += "not finite" not in done.stderr
                continue
            at = states[-1]
        told = json.loads(subprocess.run([program, "diagnose", str(at), "--json"], cwd=folder, capture_output=True, text=True, check=True).stdout)
        log = json.loads((at / "trainer_state.json" if at.is_dir() else at).read_text())
        entries = ",\n".join(json.dumps(entry) for entry in log.pop("log_history"))
        (logs / f"{name}.json").write_text(json.dumps(log)[:-1] + f', "log_history": [\n{entries}\n]}}\n')
        found = [one["sign"] for one in told["diagnoses"]]
        right = any(sign in signs for sign in found)
        wrong += not right
        print(f"{name:14} {', '.join(found):50} {'' if right else 'expected ' + ' or '.join(signs)}", flush=True)
    if wrong:
        raise SystemExit(f"{wrong} runs were not told")


if __name__ == "__main__":
    main()
