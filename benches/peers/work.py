"""What is measured: tokens for training, scoring and decoding, questions with four choices, and the operations they need."""
import json
import random

SEED = 20
# One question of each kind, filled with names, things and numbers: nothing is learnt from the answers, but both sides must agree.
QUESTIONS = (
    ("{a} has {n} {x} and a box of {z}. What does {a} count?\nAnswer:", ("{n} {x}", "{m} {y}", "a box of {z}", "{k} {z}")),
    ("In the {p}, {b} lost {n} {x} and found {m} {y}. What is gone?\nAnswer:", ("{n} {x}", "{m} {y}", "the {p}", "{a} and {b}")),
    ("{b} asks {a} for {m} {y}, and not for {x}. What should {a} bring?\nAnswer:", ("{m} {y}", "{n} {x}", "the old {z}", "the {p}")),
)
NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Frank", "Grace", "Henry", "Ida", "Jack")
THINGS = ("apples", "books", "candles", "eggs", "flowers", "hats", "keys", "lamps", "pears", "shoes", "spoons", "stones")
PLACES = ("garden", "library", "station", "harbour", "school", "market", "forest", "museum")


def tokens(facts):
    """{name: work}, as `benches/speed.rs` reads it. Random tokens: their speed is that of any others."""
    rng = random.Random(SEED)
    ids = lambda n: [rng.randrange(5, min(40_000, facts["vocabulary"])) for _ in range(n)]

    def short():
        prompt, completion = rng.randint(75, 105), rng.randint(20, 40)
        return [ids(prompt + completion), prompt]

    return {
        "train-short": {"train": [[short() for _ in range(8)] for _ in range(8)]},
        "train-full": {"train": [[[ids(256), 0] for _ in range(4)] for _ in range(8)]},
        "score": {"score": [ids(256) for _ in range(8)]},
        "gen1": {"generate": [[ids(40)], 128]},
        "gen16": {"generate": [[ids(40) for _ in range(16)], 128]},
    }


def arms(facts):
    """{arms: work}: one prompt, that base alone, base and one adapter, or base and seven answer together."""
    rng = random.Random(SEED)
    prompt = [rng.randrange(5, min(40_000, facts["vocabulary"])) for _ in range(8)]
    return {n: {"arms": [prompt, 128, n]} for n in (1, 2, 8)}


def operations(work, facts):
    """Floating-point operations a token: all matrix products that the result needs, a multiplication and an addition each.

    A forward pass is 2 for each weight, of the head only where logits are wanted, and attention over what comes before. A training of
    LoRA goes back through the same products once, for their inputs alone since the weights are frozen, and through the adapter's and
    attention's twice.
    """
    (kind, work), = work.items()
    if kind == "generate":
        return None
    examples = [e for step in work for e in step] if kind == "train" else [(ids, 1) for ids in work]
    count = sum(len(ids) for ids, _ in examples)
    wanted = sum(len(ids) - max(1, prompt) for ids, prompt in examples)
    pairs = sum(len(ids) * (len(ids) + 1) // 2 for ids, _ in examples)
    linear, head, lora = 2 * facts["linear"] * count, 2 * facts["head"] * wanted, 2 * facts["lora"] * count
    attention = 4 * facts["attention"] * facts["layers"] * pairs
    total = 2 * (linear + head) + 3 * (lora + attention) if kind == "train" else linear + head + attention
    return total / count


def items(n=100):
    """Questions with four choices, the first the right one before they are shuffled."""
    rng, made = random.Random(SEED), []
    for i in range(n):
        question, choices = QUESTIONS[i % len(QUESTIONS)]
        (a, b), (x, y, z) = rng.sample(NAMES, 2), rng.sample(THINGS, 3)
        n, m, k = rng.sample(range(2, 60), 3)
        fill = {"a": a, "b": b, "x": x, "y": y, "z": z, "p": rng.choice(PLACES), "n": n, "m": m, "k": k}
        choices = [choice.format(**fill) for choice in choices]
        order = rng.sample(range(4), 4)
        made.append({"question": question.format(**fill), "choices": [choices[c] for c in order], "answer": order.index(0)})
    return made


def choices_project(folder, model, adapter):
    """`items` as a project of finetest."""
    (folder / "scenarios").mkdir(parents=True, exist_ok=True)
    quote = json.dumps  # a JSON string of ASCII is a TOML string
    manifest = f"[model]\nsource = {quote(str(model))}\n[adapter]\npath = {quote(str(adapter))}\n"
    (folder / "finetest.toml").write_text(manifest)
    cases = ['role = "control"\ndescription = "which of four"\n']
    for item in items():
        right = item["choices"][item["answer"]]
        others = [" " + c for c in item["choices"] if c != right]
        check = f"{{ choice = {{ answer = {quote(' ' + right)}, others = {quote(others)} }} }}"
        cases.append(f"[[cases]]\ntext = {quote(item['question'])}\nchecks = [{check}]\n")
    (folder / "scenarios" / "choices.toml").write_text("\n".join(cases))
    return folder / "finetest.toml"


def choices_task(folder):
    """`items` as a task of lm-evaluation-harness; its name."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items()))
    (folder / "four_choices.yaml").write_text(f"""task: four_choices
dataset_path: json
dataset_kwargs:
  data_files:
    test: {json.dumps(str(folder / "items.jsonl"))}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: answer
target_delimiter: " "
metric_list:
  - metric: acc
""")
    return "four_choices"


def questions(run, limits):
    """What a recorded run asked, as `project.py` reads it; `limits`: {scenario: {case: most new tokens}}."""
    asked = []
    for scenario in run["scenarios"]:
        for case in scenario["cases"]:
            completion = case["answers"]["base"]["samples"][0]["turns"][0]
            generates = completion["finish"] != "scored"
            asked.append({
                "prompt": case["prompt"], "role": scenario["role"], "choices": [c["text"] for c in completion["choices"]],
                "max_tokens": limits[scenario["name"]][case["name"]] if generates else 0,
            })
    return asked
