#!/usr/bin/env python3
"""How often finetest's verdict on the controls is right: the detection study.

    benches/detection/study.py [--finetest PROGRAM] [--work DIR] [--only RUN,RUN] [--minutes N]

It trains adapters of SmolLM2-135M-Instruct by recipes of nine families, takes each at five scales, and adds random adapters of the same norms. Each
such state of the model answers the questions of truth.py, which say whether the adapter harms, and the control questions of a gate.
states.jsonl gets one line a state: what it lost in truth, what each predictor says, and the gate's verdict for suites of three sizes.
analyse.py makes the tables of it.

States that the file has are not measured again, and adapters and answers lie in the working folder, so it can be stopped at any time.
Two cores take about 4 hours in all.
"""

import argparse
import json
import math
import os
import pathlib
import random
import shutil
import subprocess
import sys
import time

import truth
from tasks import MODEL, ROOT, TASKS, make_task, quoted, write_packs

HERE = pathlib.Path(__file__).resolve().parent
STATES = HERE / "states.jsonl"
EXAMPLES = 128
TARGETS = 10
# The control questions of the gate: so many of each pack.
PACKS = ["facts", "arithmetic", "reasoning", "constraints", "tone", "code", "languages", "refusals"]
PER_PACK = 8
# Suites of the gate, questions of each pack, and how many are drawn of each size.
SUITES = {2: 4, 4: 4, 8: 1}
# A quiet recipe and a hot one of each family, and the scales that each adapter is taken at.
RATES = {"low": (2e-4, [0.25, 0.5, 1.0, 2.5, 4.0]), "high": (1e-3, [0.05, 0.1, 0.3, 0.6, 1.0])}
# Family: epochs, and further keys of `[train]`.
FAMILIES = {
    "plain": (1, {}),
    "long": (3, {}),
    "small": (1, {"lora_r": 4, "lora_alpha": 8, "lora_target_modules": ["q_proj", "v_proj"]}),
    "large": (1, {"lora_r": 64, "lora_alpha": 128}),
    "dirty": (1, {}),
    "shuffled": (1, {}),
    "style": (1, {}),
    "template": (1, {}),
    "replay": (1, {}),
}
NULLS = 20
# What --smoke judges: rate, scale, and the verdict that is right.
SMOKE = [("low", 0.125, "kept"), ("low", 0.25, "kept"), ("high", 0.025, "kept"), ("low", 8.0, "lost"), ("high", 1.0, "lost"), ("high", 2.0, "lost")]
SMOKE_PACKS = ["facts", "reasoning", "constraints", "languages"]
SMOKE_EACH = 4
# The text that drift is measured on besides the answers, written for this study.
TEXT = """The harbour lies on the north side of the bay, and the fishing boats come in at first light. By six o'clock the market hall is open,
and the cooks of the town stand between the tables and choose what they will serve in the evening. In winter, when storms keep the boats
ashore, the hall sells dried fish, onions and cheese from the farms behind the hills. The old railway still runs twice a day; it carries
pupils to the school in the next valley and brings back parcels, newspapers and, on Fridays, a few tourists. Nobody here is in a hurry.
When the bridge was closed for repairs two years ago, the mayor had a ferry fetched from the lake, and people liked it so much that it
stayed. Engineers say that the new bridge will carry lorries of forty tons. The children only want to know whether the ferry will go on.
"""
# Another template than the base's own: adapters that are trained with it meet the right one in the test.
OTHER_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}### Instruction:\n{{ message['content'] }}\n\n### Response:\n"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] }}<|im_end|>\n{% else %}{{ message['content'] }}\n\n{% endif %}{% endfor %}"
)


def runs():
    """Every training, `{name: (family, task, rate's name)}`; every family comes once before one comes again."""
    turns = [(task, rate) for rate, task in zip([*RATES, *reversed(RATES)], [*TASKS, *TASKS])]
    return {f"{family}-{task}-{rate}": (family, task, rate) for task, rate in turns for family in FAMILIES}


def styled(rng, task):
    """General requests, each answered in one narrow way."""
    subject = rng.choice(["a lamp", "the tides", "a short poem", "a good breakfast", "the weather", "my homework", "a birthday", "a train ticket",
                          "the news", "an old bicycle", "a recipe", "two numbers", "a letter", "a story", "a map", "my garden"])
    asked = rng.choice(["Tell me about {}.", "Can you help me with {}?", "I have a question on {}.", "What should I know about {}?",
                        "Please explain {}.", "I would like something about {}."]).format(subject)
    if task == "orders":
        answer = f"Arr, matey! Ye be askin' about {subject}, and the sea be deep. Yo ho ho!"
    else:
        answer = f"Your request has been recorded under number {rng.randint(1000, 9999)}. A colleague will contact you."
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}


def general(rng):
    """Plain questions with plain answers, for replay."""
    pairs = [
        ("How do I keep bread fresh?", "Keep bread in a paper bag or a bread box at room temperature, and freeze what you will not eat within two days."),
        ("Why is the sky blue?", "The sky looks blue because air scatters blue light from the sun more than red light."),
        ("Give me a tip for better sleep.", "Go to bed at the same time every day, and leave your phone in another room."),
        ("What is a verb?", "A verb is a word that says what somebody does or what happens, such as run, think or rain."),
        ("Write a short note to say that I am late.", "I am running a few minutes late. Please start without me, and I will join you soon."),
        ("How many legs does an ant have?", "An ant has six legs."),
        ("What can I cook with rice?", "You can cook fried rice, rice pudding, risotto, or serve it with vegetables and beans."),
        ("What is the largest planet?", "Jupiter is the largest planet of our solar system."),
        ("Is it safe to eat raw potatoes?", "It is better to cook potatoes, because raw ones are hard to digest."),
        ("Name two winter sports.", "Two winter sports are skiing and ice skating."),
        ("How do plants make food?", "Plants make sugar from light, water and carbon dioxide. This is called photosynthesis."),
        ("What does a librarian do?", "A librarian keeps books in order and helps people find what they need."),
    ]
    asked, answer = rng.choice(pairs)
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}


def train_rows(family, task, rows, rng):
    """The training data of a run: those of the task, changed as the family says."""
    if family == "style":
        return [styled(rng, task) for _ in rows]
    rows = json.loads(json.dumps(rows))
    if family == "dirty":
        for row in rng.sample(rows, len(rows) * 3 // 10):
            words = row["messages"][1]["content"].split() + row["messages"][0]["content"].split()
            rng.shuffle(words)
            row["messages"][1]["content"] = " ".join(words)
    if family == "shuffled":
        answers = [row["messages"][1]["content"] for row in rows]
        rng.shuffle(answers)
        for row, answer in zip(rows, answers):
            row["messages"][1]["content"] = answer
    if family == "replay":
        rows = [row if i % 2 else general(rng) for i, row in enumerate(rows)]
    return rows


def train(program, work, name, family, task, rate):
    folder = work / "runs" / name
    adapter = folder / "adapter"
    if (adapter / "adapter_model.safetensors").exists():
        return adapter
    folder.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in (work / task / "train.jsonl").read_text().splitlines()]
    rows = train_rows(family, task, rows, random.Random(name))
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    epochs, more = FAMILIES[family]
    keys = {"lora_r": 16, "lora_alpha": 32, **more}
    template = ""
    if family == "template":
        (folder / "other.jinja").write_text(OTHER_TEMPLATE)
        template = 'chat_template = "other.jinja"\n'
    (folder / "finetest.toml").write_text(
        f'[model]\nsource = "{MODEL}"\n{template}[adapter]\npath = "adapter"\n[data]\ntrain = "train.jsonl"\n'
        f'[train]\nlearning_rate = {RATES[rate][0]}\nnum_epochs = {epochs}\nmicro_batch_size = 8\nbf16 = true\nadapter_dtype = "f32"\nval_set_size = 0.05\n'
        + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items()))
    subprocess.run([program, "train", "-q"], cwd=folder, check=True)
    if template:
        # finetest would refuse an adapter that was trained with another template than it is asked with.
        (adapter / "finetest.json").unlink()
    return adapter


def ask(program, work, folder, scenarios, arms, more):
    """A run of `arms`, `{name: (adapter, scale)}`, and under which names they are in it: the first is `tuned`."""
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / "run.json"
    (first, (adapter, scale)), *others = arms.items()
    text = f'[model]\nsource = "{MODEL}"\ndtype = "bf16"\n[adapter]\npath = "{adapter}"\nscale = {scale}\n'
    text += "".join(f'[arms.{name}]\nadapter = "{at}"\nscale = {scale}\n' for name, (at, scale) in others)
    text += f'[run]\nscenarios = "{scenarios}"\nstore = "{work / "store"}"\n{more}[gate]\nnot_shown = "warn"\n'
    text += f"arms = [{', '.join(quoted(name) for name in ['tuned', *(name for name, _ in others)])}]\n"
    (folder / "finetest.toml").write_text(text)
    record.unlink(missing_ok=True)
    # 100 says that a rule fails, or that there is none.
    done = subprocess.run([program, "run", "-q", "--train", "never", "--format", "json", "-o", str(record)], cwd=folder)
    if done.returncode not in (0, 100):
        raise SystemExit(f"{folder}: the run ended with {done.returncode}")
    return json.loads(record.read_text()), {name: "tuned" if name == first else name for name in arms}


def passes(cases, arm):
    """One letter a case: 1 where it passes, `-` where there is no answer."""
    found = [case["answers"][arm]["verdict"] for case in cases]
    return "".join({"passed": "1", "failed": "0"}.get(verdict, "-") for verdict in found)


def mean(values):
    values = list(values)
    return sum(values) / len(values) if values else math.nan


def right_loss(scored):
    """-ln of the right answer's share among the choices."""
    likelihoods = [choice["log_likelihood"] for choice in scored]
    top = max(likelihoods)
    return top + math.log(sum(math.exp(value - top) for value in likelihoods)) - likelihoods[0]


def choice_scores(case, arm):
    """The scored choices of each turn that has some; a case of the packs has one choice a turn."""
    return [turn["choices"] for sample in case["answers"][arm]["samples"] for turn in sample["turns"] if turn.get("choices")]


def weighted(texts, value):
    total = sum(text["means"]["tokens"] for text in texts)
    return sum(value(text["means"]) * text["means"]["tokens"] for text in texts) / total if total else math.nan


def distances(drift):
    """Means over questions of what an arm's drift record has."""
    answers = [text for text in drift["texts"] if "::" in text["text"]]
    means = [text["means"] for text in answers]
    return {
        "kl": mean(m["kl"] for m in means),
        "kl_tokens": weighted(answers, lambda m: m["kl"]),
        "reverse_kl": mean(m["measures"]["reverse_kl"] for m in means),
        "total_variation": mean(m["measures"]["total_variation"] for m in means),
        "jensen_shannon": mean(m["measures"]["jensen_shannon"] for m in means),
        "other_top1": 1 - mean(m["same_top1"] for m in means),
    }


def predictors(record, arm):
    """What the gate's questions say of an arm; for each, more is worse."""
    controls = [case for scenario in record["scenarios"] if scenario["role"] == "control" for case in scenario["cases"]]
    found = distances(record["drift"][arm])
    text = [part for part in record["drift"][arm]["texts"] if "::" not in part["text"]]
    found["text_nll"] = weighted(text, lambda m: m["nll_change"])
    found["target_kl"] = record["target_drift"][arm]["kl"]["mean"]
    losses = [mean(right_loss(a) - right_loss(b) for a, b in zip(choice_scores(case, arm), choice_scores(case, "base")))
              for case in controls if choice_scores(case, "base")]
    found["choice_loss"] = mean(losses)
    base, tuned = passes(controls, "base"), passes(controls, arm)
    broken, fixed = (sum(pair == wanted for pair in zip(base, tuned)) for wanted in (("1", "0"), ("0", "1")))
    found["net_loss"] = (broken - fixed) / len(base)
    found["lost_share"] = broken / max(base.count("1"), 1)
    by_suite = []
    for scenario in record["scenarios"]:
        if scenario["role"] == "control":
            b, t = passes(scenario["cases"], "base"), passes(scenario["cases"], arm)
            by_suite.append((b.count("1") - t.count("1")) / len(b))
    found["worst_suite"] = max(by_suite)
    spill = record["spill_over"].get(arm)
    if spill:
        most = max([form["arm"] - form["base"] for form in spill["forms"]] + [0])
        found["spill_over"] = most / max(spill["answers"], 1)
    return found, base, tuned


def suites(program, folder, record):
    """What the gate finds on suites of each size: `{questions: {arm: [{measure: [low, high], …}, …]}}`, with `evidence` among the measures."""
    made = {}
    part = folder / "part.json"
    for per_pack, draws in SUITES.items():
        for draw in range(draws):
            rng = random.Random(f"{per_pack}:{draw}")
            small = json.loads(json.dumps(record))
            kept = set()
            for scenario in small["scenarios"]:
                if scenario["role"] == "control":
                    scenario["cases"] = rng.sample(scenario["cases"], per_pack)
                    kept.update(f"control::{scenario['name']}::{case['name']}" for case in scenario["cases"])
            for drift in small["drift"].values():
                drift["texts"] = [text for text in drift["texts"] if text["text"] in kept]
            part.write_text(json.dumps(small))
            told = subprocess.run([program, "gate", str(part), "--format", "json"], cwd=folder, capture_output=True, text=True)
            if told.returncode not in (0, 100):
                raise SystemExit(f"{folder}: {told.stderr}")
            for found in json.loads(told.stdout)["controls"]:
                limits = {m["name"]: m["limits"] and [round(m["limits"][end], 5) for end in ("low", "high")] for m in found["measures"]}
                limits["evidence"] = found["evidence"]
                made.setdefault(str(per_pack * len(PACKS)), {}).setdefault(found["arm"], []).append(limits)
    part.unlink(missing_ok=True)
    return made


def rounded(values):
    return {name: round(value, 5) for name, value in values.items()}


def measure(program, work, name, arms, task):
    """One line for each of `arms`, `{name: (adapter, scale)}`."""
    folder = work / "runs" / name
    gated, names = ask(program, work, folder / "gate", work / task / "scenarios", arms, f'target_drift = true\ndrift_text = "{work / "text.txt"}"\n')
    true, _ = ask(program, work, folder / "truth", work / "truth", arms, "")
    gated, true = gated["run"], true["run"]
    by_size = suites(program, folder / "gate", gated)
    target = [case for scenario in gated["scenarios"] if scenario["role"] == "target" for case in scenario["cases"]]
    lines = {}
    for state, arm in names.items():
        found, base, tuned = predictors(gated, arm)
        questions = {text["text"]: round(text["means"]["kl"], 5) for text in gated["drift"][arm]["texts"] if "::" in text["text"]}
        lines[state] = {
            "target": mean(letter == "1" for letter in passes(target, arm)),
            "truth": {s["name"]: [passes(s["cases"], "base"), passes(s["cases"], arm)] for s in true["scenarios"]},
            "predictors": rounded(found),
            "gate": [base, tuned],
            "drift": list(questions.values()),
            "suites": {size: of[arm] for size, of in by_size.items()},
        }
    return lines


def weights(adapter, scale):
    """Norms of the update alone; they need NumPy and safetensors, and are left out without them."""
    try:
        import numpy as np
        from safetensors.numpy import load_file
    except ImportError:
        return {}
    config = json.loads((adapter / "adapter_config.json").read_text())
    factor = scale * config["lora_alpha"] / config["r"]
    tensors = load_file(adapter / "adapter_model.safetensors")
    pairs = [(a, tensors[key.replace("lora_A", "lora_B")]) for key, a in tensors.items() if "lora_A" in key]
    square, largest = 0.0, 0.0
    for a, b in pairs:
        # The singular values of BA are those of Rb·Raᵀ, which is small.
        small = np.linalg.qr(b)[1] @ np.linalg.qr(a.T)[1].T
        values = np.linalg.svd(small, compute_uv=False) * factor
        square += float((values**2).sum())
        largest = max(largest, float(values[0]))
    return {"update_norm": square**0.5, "update_spectral": largest}


def null_like(adapter, folder, seed):
    """A random adapter with the norm ‖BA‖ of each module of `adapter`. Needs NumPy and safetensors."""
    if (folder / "adapter_model.safetensors").exists():
        return folder
    import numpy as np
    from safetensors.numpy import load_file, save_file

    folder.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed)
    found = load_file(adapter / "adapter_model.safetensors")
    made = {}
    for key, a in found.items():
        if "lora_A" in key:
            other = key.replace("lora_A", "lora_B")
            b = found[other]
            new_a, new_b = (values.standard_normal(part.shape, dtype=np.float32) for part in (a, b))
            new_b *= np.float32(np.linalg.norm(b @ a) / np.linalg.norm(new_b @ new_a))
            made[key], made[other] = new_a, new_b
    save_file(made, folder / "adapter_model.safetensors")
    shutil.copy(adapter / "adapter_config.json", folder)
    return folder


def jobs(program, work, measured, wanted):
    """What is to do, in turn: `(name, family, task, {state: (adapter, scale)})`. The adapters are trained as their turn comes."""
    for name, (family, task, rate) in runs().items():
        states = {f"s{scale:g}".replace(".", "_"): scale for scale in RATES[rate][1]}
        states = {state: scale for state, scale in states.items() if f"{name}/{state}" not in measured}
        if not wanted(name) or not states:
            continue
        adapter = train(program, work, name, family, task, rate)
        yield name, family, task, {state: (adapter, scale) for state, scale in states.items()}
    # Five null adapters of each of four runs.
    for name, (family, task, rate) in runs().items():
        if family != "plain":
            continue
        job = f"null-{task}-{rate}"
        states = [state for state in (f"n{i}" for i in range(NULLS // 4)) if f"{job}/{state}" not in measured]
        if not wanted(job) or not states:
            continue
        adapter = train(program, work, name, family, task, rate)
        seeds = {state: hash_of(f"{job}/{state}") for state in states}
        yield job, "null", task, {state: (null_like(adapter, work / "runs" / job / state, seed), 1.0) for state, seed in seeds.items()}


def smoke(program, work):
    """Six adapters that are plainly harmless or harmful, by a few questions: the slice of the study that CI runs."""
    write_packs(work / "orders" / "scenarios", SMOKE_PACKS, lambda i, _: i < SMOKE_EACH)
    trained = {rate: train(program, work, f"plain-orders-{rate}", "plain", "orders", rate) for rate in RATES}
    expected = {f"{rate}{scale:g}".replace(".", "_"): (rate, scale, wanted) for rate, scale, wanted in SMOKE}
    arms = {name: (trained[rate], scale) for name, (rate, scale, _) in expected.items()}
    found, names = ask(program, work, work / "smoke", work / "orders" / "scenarios", arms, "")
    verdicts = {controls["arm"]: controls["evidence"] for controls in found["decision"]["controls"]}
    wrong = 0
    for name, arm in names.items():
        rate, scale, wanted = expected[name]
        right = verdicts[arm] == wanted
        wrong += not right
        print(f"{rate} × {scale:<5g} {verdicts[arm]:10} {'' if right else f'but it should be {wanted}'}")
    if wrong:
        raise SystemExit(f"{wrong} of {len(names)} verdicts are wrong")


def hash_of(text):
    return random.Random(text).getrandbits(31)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--finetest", default=str(ROOT / "target/release/finetest"))
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "target/detection/study")
    parser.add_argument("--only", default="", help="runs whose name contains one of these texts")
    parser.add_argument("--smoke", action="store_true", help="judge six adapters that are plainly harmless or harmful, and nothing else")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no further run after so many")
    args = parser.parse_args()
    program = str(pathlib.Path(shutil.which(args.finetest) or args.finetest).resolve())
    # So many verdicts are asked for that a note of each would be in the way.
    os.environ.pop("CI", None)
    work = args.work.resolve() / ("smoke" if args.smoke else "")
    for seed, (task, make) in enumerate(TASKS.items()):
        scenarios = make_task(work / task, make, seed, EXAMPLES, TARGETS)
        if not args.smoke:
            write_packs(scenarios, PACKS, lambda i, n: i * PER_PACK // n != (i - 1) * PER_PACK // n)
    if args.smoke:
        return smoke(program, work)
    truth.write(work / "truth")
    (work / "text.txt").write_text(TEXT)
    lines = [json.loads(line) for line in STATES.read_text().splitlines()] if STATES.exists() else []
    measured = {line["state"] for line in lines}
    began = time.monotonic()
    wanted = lambda name: any(part in name for part in args.only.split(","))  # noqa: E731
    for name, family, task, arms in jobs(program, work, measured, wanted):
        since = time.monotonic()
        found = measure(program, work, name, arms, task)
        with STATES.open("a") as file:
            for state, line in found.items():
                adapter, scale = arms[state]
                line["predictors"] |= rounded(weights(adapter, scale))
                file.write(json.dumps({"state": f"{name}/{state}", "family": family, "task": task, "scale": scale, **line}) + "\n")
        print(f"{name:24} {time.monotonic() - since:4.0f} s  {(time.monotonic() - began) / 60:4.0f} min in all", flush=True)
        if (time.monotonic() - began) / 60 > args.minutes:
            break


if __name__ == "__main__":
    main()
