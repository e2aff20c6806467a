"""Verifies the dataset from its files alone."""

import json
from collections import Counter

from corpus import ABSOLUTE, SYSTEM, answer, example, near, problems, shingles
from split import HELD_BLOCKS, HELD_FORM, HELD_LINES, HELD_UNSEEN, MOST_TRAINED, UNSEEN_TOOL

SIDES = ["train", "validation", "heldout", "form", "unseen_tool"]


def read(folder, name):
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def load(folder):
    """The corpus by text, and each side's records, found again in the corpus by their text."""
    corpus = read(folder, "diagnostics")
    by_text = {record["text"]: record for record in corpus}
    sides = {name: [by_text.get(line["messages"][1]["content"]) for line in read(folder, name)] for name in SIDES}
    return corpus, sides


def corpus_faults(corpus):
    if len(corpus) < 750:
        yield f"only {len(corpus)} diagnostics"
    if len({record["tool"] for record in corpus}) < 9:
        yield "fewer than nine tools"
    for what in ("id", "text"):
        if len({record[what] for record in corpus}) < len(corpus):
            yield f"two records with one {what}"
    for record in corpus:
        for problem in problems(record):
            yield f"{record['id']}: {problem}"
        if record["label"]["tool"] != record["tool"]:
            yield f"{record['id']}: another tool in the label"


def path_faults(folder):
    """Absolute paths anywhere in the data, the sources included."""
    files = [folder / f"{name}.jsonl" for name in ["diagnostics", *SIDES]]
    for file in files + sorted((folder / "sources").rglob("*.*")):
        text = file.read_text(encoding="utf-8").replace("\\n", "\n")
        lines = text.splitlines()[1:] if text.startswith("#!") else text.splitlines()
        if any(ABSOLUTE.search(line) for line in lines):
            yield f"{file.relative_to(folder)}: an absolute path"


def format_faults(folder, sides):
    for name in SIDES:
        for number, (line, record) in enumerate(zip(read(folder, name), sides[name]), 1):
            if record is None or line != example(record):
                yield f"{name}.jsonl:{number}: not a record of the corpus"
            elif line["messages"][0]["content"] != SYSTEM or line["messages"][2]["content"] != answer(record["label"]):
                yield f"{name}.jsonl:{number}: not in the asked form"


def count_faults(sides):
    train = Counter(record["tool"] for record in sides["train"])
    trained = sum(train.values())
    if not 500 <= trained <= MOST_TRAINED:
        yield f"{trained} training examples"
    for tool, count in train.items():
        if count > trained / 5:
            yield f"{tool}: more than a fifth of the training examples"
    if not 0.08 <= len(sides["validation"]) / (trained + len(sides["validation"])) <= 0.12:
        yield f"{len(sides['validation'])} validation examples"
    held = sides["heldout"]
    parts = Counter("unseen" if record["tool"] == UNSEEN_TOOL else record["form"] for record in held)
    if parts != {"unseen": HELD_UNSEEN, "line": HELD_LINES, "block": HELD_BLOCKS}:
        yield f"held-out cases: {dict(parts)}"
    for name in ("train", "validation"):
        if any(record["tool"] == UNSEEN_TOOL for record in sides[name]):
            yield f"{UNSEEN_TOOL} in {name}"
    if [record["form"] for record in sides["form"]] != ["line"] * HELD_FORM:
        yield f"{len(sides['form'])} cases for the scenarios of form, or one of several lines"
    if any(record["tool"] != UNSEEN_TOOL for record in sides["unseen_tool"]):
        yield "another tool among the unseen one's records"


def overlap_faults(sides):
    """Kinds on two sides, and texts that nearly repeat each other across sides."""
    apart = [("train", "validation"), ("train", "heldout"), ("validation", "heldout"),
             ("train", "form"), ("validation", "form"), ("heldout", "form"), ("train", "unseen_tool"), ("validation", "unseen_tool")]
    sets = {name: [shingles(record["text"]) for record in sides[name]] for name in SIDES}
    for left, right in apart:
        shared = {r["kind"] for r in sides[left]} & {r["kind"] for r in sides[right]}
        yield from (f"{kind}: in {left} and {right}" for kind in sorted(shared))
        for index, one in enumerate(sets[left]):
            for other_index, other in enumerate(sets[right]):
                if near(one, other):
                    pair = sides[left][index]["id"], sides[right][other_index]["id"]
                    yield f"{pair[0]} in {left} nearly repeats {pair[1]} in {right}"


def faults(folder):
    corpus, sides = load(folder)
    found = [*corpus_faults(corpus), *path_faults(folder), *format_faults(folder, sides)]
    if found:
        return found
    return [*count_faults(sides), *overlap_faults(sides)]


def print_counts(folder):
    """A table for the README: records, kinds and sides of each tool."""
    corpus, sides = load(folder)
    print("| tool | version | records | kinds | several lines | train | validation | held out | form | unseen |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for tool in dict.fromkeys(record["tool"] for record in corpus):
        mine = [record for record in corpus if record["tool"] == tool]
        counts = [len(mine), len({r["kind"] for r in mine}), sum(r["form"] == "block" for r in mine)]
        counts += [sum(record["tool"] == tool for record in sides[name]) for name in SIDES]
        print(f"| {tool} | {mine[0]['version']} | " + " | ".join(map(str, counts)) + " |")
    total = [len(corpus), len({r["kind"] for r in corpus}), sum(r["form"] == "block" for r in corpus)]
    total += [len(sides[name]) for name in SIDES]
    print("| all | | " + " | ".join(map(str, total)) + " |")
