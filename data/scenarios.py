#!/usr/bin/env python3
"""Writes the five target scenarios from the held-out cases.

    python3 data/scenarios.py
"""

import json
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
SCENARIOS = HERE.parent / "scenarios"
UNSEEN = "luac"

SCHEMA = """{ json-schema = { type = "object", additionalProperties = false, \
required = ["tool", "severity", "file", "line", "column", "code", "message"], properties = { \
tool = { type = "string" }, severity = { type = "string" }, file = { type = "string" }, \
line = { type = ["integer", "null"] }, column = { type = ["integer", "null"] }, \
code = { type = ["string", "null"] }, message = { type = "string" } } } }"""


def records(name):
    """(system, text, label) of each line."""
    for line in (HERE / name).read_text().splitlines():
        system, user, assistant = (m["content"] for m in json.loads(line)["messages"])
        yield system, user, json.loads(assistant)


def quoted(text):
    """A TOML string, as readable as it can be."""
    if "\n" in text:
        assert "'''" not in text and not text.endswith("'"), text
        return f"'''\n{text}'''"
    return f"'{text}'" if "'" not in text else json.dumps(text, ensure_ascii=False)


def value(v):
    return str(v) if isinstance(v, int) else quoted(v)


def fields(label, keys=None):
    """The check that these fields have the label's values, and the one that the others are null."""
    given = {k: v for k, v in label.items() if v is not None and (keys is None or k in keys)}
    checks = ["{ json-fields = { " + ", ".join(f"{k} = {value(v)}" for k, v in given.items()) + " } }"]
    nulls = [k for k, v in label.items() if v is None]
    if keys is None and nulls:
        checks.append("{ json-null = " + json.dumps(nulls) + " }")
    return checks


def case(name, text, checks):
    lines = "".join(f"    {check},\n" for check in checks)
    return f'[[cases]]\nname = "{name}"\nprompt = {quoted(text)}\nchecks = [\n{lines}]\n'


def named(cases):
    """Each case's tool, numbered from its second case on."""
    seen = Counter()
    for _, text, label in cases:
        seen[label["tool"]] += 1
        n = seen[label["tool"]]
        yield label["tool"] if n == 1 else f"{label['tool']}_{n}", text, label


def write(name, description, system, cases, checks=()):
    shared = f"checks = [\n" + "".join(f"    {c},\n" for c in checks) + "]\n" if checks else ""
    head = f'role = "target"\ndescription = "{description}"\nsystem = "{system}"\nmax_tokens = 120\n{shared}\n'
    (SCENARIOS / f"{name}.toml").write_text(head + "\n".join(cases))


def is_long(text):
    """Several lines besides the command's."""
    lines = text.splitlines()
    return len(lines) - lines[0].startswith("$ ") > 1


def main():
    held = list(records("heldout.jsonl"))
    form = list(records("form.jsonl"))
    system = held[0][0]
    known = [r for r in held if r[2]["tool"] != UNSEEN]
    whole = lambda cases: [case(n, text, fields(label)) for n, text, label in named(cases)]
    write("known-tools", "one-line diagnostics of known tools, of kinds that are not in the training data", system,
          whole([r for r in known if not is_long(r[1])]))
    write("long-diagnostics", "diagnostics with the source line and carets below, of known tools", system,
          whole([r for r in known if is_long(r[1])]))
    some = lambda keys, cases: [case(n, text, fields(label, keys)) for n, text, label in named(cases)]
    write("unknown-tool", "place and message of diagnostics of a tool that is not in the training data", system,
          some(("file", "line", "message"), [r for r in held if r[2]["tool"] == UNSEEN]))
    place = lambda cases: some(("file", "line"), cases)
    write("json-only", "one JSON object with the seven keys, and nothing before or after it", system, place(form[:4]),
          ['"json"', SCHEMA, r"{ not-contains = '```' }", r"{ not-regex = '\n' }"])
    write("template-hygiene", "an answer that ends by itself, without a word of the chat template in it", system,
          place(form[4:]), ['"no-template-tags"', r"{ not-regex = '(?i)\b(assistant|user|system)\b' }",
                              r"{ not-regex = '\}\s*\S' }"])


if __name__ == "__main__":
    main()
