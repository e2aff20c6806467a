"""Splits the corpus so that a kind of message stands on one side only.

Records of one kind, and records that nearly repeat each other, form a group; a group goes
to one side as a whole. One tool is kept out of training altogether.
"""

from collections import defaultdict

from corpus import example, near, shingles
from mutate import number

UNSEEN_TOOL = "luac"
HELD_UNSEEN, HELD_LINES, HELD_BLOCKS, HELD_FORM = 6, 12, 6, 8
VALIDATION_SHARE = 0.08
MOST_TRAINED, MOST_BLOCKS = 600, 150  # training examples, and those of several lines
SMALL = 4  # a held-out case is taken from a group of at most so many records


def groups_of(records):
    """The records grouped by kind and near-repetition, with a union-find."""
    parent = list(range(len(records)))

    def find(index):
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first = {}
    sets = [shingles(record["text"]) for record in records]
    for index, record in enumerate(records):
        parent[find(index)] = find(first.setdefault(record["kind"], index))
        for other in range(index):
            if find(other) != find(index) and near(sets[index], sets[other]):
                parent[find(index)] = find(other)
    groups = defaultdict(list)
    for index, record in enumerate(records):
        groups[find(index)].append(record)
    return sorted(groups.values(), key=lambda group: number("group", *sorted(r["text"] for r in group)))


def take_unseen(groups):
    """The held-out cases of the unseen tool, each of another kind, and its other records."""
    mine = [group for group in groups if group[0]["tool"] == UNSEEN_TOOL]
    held = [ordered(group)[0] for group in mine[:HELD_UNSEEN]]
    rest = [record for group in mine for record in group if record not in held]
    return held, rest


def ordered(group):
    return sorted(group, key=lambda record: number("record", record["text"]))


def fits(record, form):
    return record["form"] == form and record["label"]["severity"] != "note"


def take_form(groups, form, amount, tools_used):
    """One record of the form from one small group per tool, tools in the seed's order."""
    held, used = [], []
    tools = sorted({group[0]["tool"] for group in groups}, key=lambda tool: (tool in tools_used, number(form, tool)))
    for tool in tools:
        fitting = [g for g in groups if len(g) <= SMALL and {r["tool"] for r in g} == {tool} and any(fits(r, form) for r in g)]
        if len(held) == amount or not fitting:
            continue
        group = min(fitting, key=len)
        held.append(next(record for record in ordered(group) if fits(record, form)))
        used.append(group)
    return held, used


def take_validation(groups):
    """About a tenth of each tool's records, in whole groups."""
    total, taken, chosen = defaultdict(int), defaultdict(int), []
    for group in groups:
        total[group[0]["tool"]] += len(group)
    for group in groups:
        tool = group[0]["tool"]
        if taken[tool] + len(group) <= max(1, round(total[tool] * VALIDATION_SHARE)):
            taken[tool] += len(group)
            chosen.append(group)
    return chosen


def take_train(groups):
    """What is left, in the seed's order, up to the limits."""
    train, blocks = [], 0
    for record in sorted((r for group in groups for r in group), key=lambda r: number("train", r["text"])):
        block = record["form"] == "block"
        if len(train) < MOST_TRAINED and not (block and blocks == MOST_BLOCKS):
            train.append(record)
            blocks += block
    return sorted(train, key=lambda record: number("shuffle", record["text"]))


def shuffled(records, side):
    return [example(r) for r in sorted(records, key=lambda r: number(side, r["text"]))]


def split(records):
    groups = groups_of(records)
    unseen, unseen_rest = take_unseen(groups)
    seen = [group for group in groups if all(record["tool"] != UNSEEN_TOOL for record in group)]
    blocks, used = take_form(seen, "block", HELD_BLOCKS, set())
    seen = [group for group in seen if group not in used]
    lines, used = take_form(seen, "line", HELD_LINES, {record["tool"] for record in blocks})
    seen = [group for group in seen if group not in used]
    form, used = take_form(seen, "line", HELD_FORM, set())
    seen = [group for group in seen if group not in used]
    validation = take_validation(seen)
    train = take_train([group for group in seen if group not in validation])
    return {
        "train": [example(record) for record in train],
        "validation": shuffled([r for group in validation for r in group], "validation"),
        "heldout": [example(record) for record in unseen + lines + blocks],
        "form": [example(record) for record in form],
        "unseen_tool": shuffled(unseen_rest, "unseen"),
    }
