#!/usr/bin/env python3
"""How finetest judges adapters of known recipes: trains them on tasks that are made here, and asks them controls that no recipe was chosen on.

    benches/detection/recipes.py [--finetest PROGRAM] [--work DIR] [--packs facts,tone]

Each recipe of each task is an adapter of SmolLM2-135M-Instruct. What is done is not done again: the adapters and the answers lie in the working folder.
One line a task and recipe goes to benches/detection/recipes.jsonl. Two cores take about 40 minutes.
"""

import argparse
import json
import pathlib
import shutil
import subprocess

from tasks import MODEL, ROOT, TASKS, make_task, write_packs

HERE = pathlib.Path(__file__).resolve().parent
# Learning rate and epochs; rank 16 throughout.
RECIPES = {"mild": (2e-4, 1), "middle": (1e-3, 3), "overcooked": (2e-3, 10)}
# What no recipe here was chosen on. Every third question is left out, to keep the time on two cores.
PACKS = ["facts", "arithmetic", "constraints", "tone", "hygiene"]
EXAMPLES = 160
CASES = 20


def train(program, task, name, rate, epochs):
    folder = task / name
    if not (folder / "adapter" / "adapter_model.safetensors").exists():
        folder.mkdir(exist_ok=True)
        (folder / "finetest.toml").write_text(
            f'[model]\nsource = "{MODEL}"\n[adapter]\npath = "adapter"\n[data]\ntrain = "../train.jsonl"\n'
            f"[train]\nlora_r = 16\nlora_alpha = 32\nlearning_rate = {rate}\nnum_epochs = {epochs}\nmicro_batch_size = 8\n"
            '[run]\nscenarios = "../scenarios"\n')
        subprocess.run([program, "train", "-q"], cwd=folder, check=True)
    return folder / "adapter"


def judge(program, task, recipes):
    others = [name for name in recipes if name != "middle"]
    arms = "".join(f'[arms.{name}]\nadapter = "{name}/adapter"\n' for name in others)
    gated = ", ".join(f'"{name}"' for name in ["tuned", *others])
    (task / "finetest.toml").write_text(
        f'[model]\nsource = "{MODEL}"\n[adapter]\npath = "middle/adapter"\n{arms}'
        f'[gate]\narms = [{gated}]\nnot_shown = "warn"\n')
    subprocess.run([program, "run", "-q", "--train", "never", "--format", "json", "-o", "run.json"], cwd=task)
    if not (task / "run.json").exists():
        raise SystemExit(f"{task}: the run failed")
    return json.loads((task / "run.json").read_text())


def measure(found):
    limits = found["limits"] and [round(found["limits"][end], 4) for end in ("low", "high")]
    return {"measured": round(found["measured"], 4), "limits": limits}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--finetest", default=str(ROOT / "target/release/finetest"))
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "target/detection")
    parser.add_argument("--packs", default=",".join(PACKS))
    parser.add_argument("--tasks", default=",".join(TASKS), help="those of which results are wanted")
    parser.add_argument("--recipes", default=",".join(RECIPES), help="those that are trained and judged, middle among them")
    args = parser.parse_args()
    recipes = {name: RECIPES[name] for name in args.recipes.split(",")}
    program = str(pathlib.Path(shutil.which(args.finetest) or args.finetest).resolve())
    results = []
    for seed, (name, make) in enumerate(TASKS.items()):
        if name not in args.tasks.split(","):
            continue
        task = args.work.resolve() / name
        scenarios = make_task(task, make, seed, EXAMPLES, CASES)
        write_packs(scenarios, args.packs.split(","), lambda i, _: i % 3 != 2)
        for recipe, (rate, epochs) in recipes.items():
            train(program, task, recipe, rate, epochs)
        found = judge(program, task, recipes)
        target = [s for s in found["run"]["scenarios"] if s["role"] == "target"][0]["cases"]
        for controls in found["decision"]["controls"]:
            arm = controls["arm"]
            passed = sum(case["answers"][arm]["verdict"] == "passed" for case in target)
            results.append({
                "task": name,
                "recipe": "middle" if arm == "tuned" else arm,
                "target": f"{passed}/{len(target)}",
                "evidence": controls["evidence"],
                "by": controls["by"],
                "questions": controls["questions"],
                **{m["name"]: measure(m) for m in controls["measures"]},
            })
    # What other tasks came to is kept.
    file = HERE / "recipes.jsonl"
    before = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {line["task"] for line in results}
    results = [line for line in before if line["task"] not in done] + results
    file.write_text("".join(json.dumps(line) + "\n" for line in results))
    for line in results:
        print(f"{line['task']:8} {line['recipe']:11} target {line['target']:6} {line['evidence']:10} {line['by']}")


if __name__ == "__main__":
    main()
