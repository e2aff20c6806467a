#!/usr/bin/env python3
"""Collects compiler and linter diagnostics with their fields, and splits them.

    collect.py tools     which tools are there, which are missing
    collect.py collect   break the sources, run the tools: diagnostics.jsonl
    collect.py split     train.jsonl, validation.jsonl, heldout.jsonl, form.jsonl, unseen_tool.jsonl
    collect.py check     verify all of it from the files alone
    collect.py stats     count it

The same sources, rules, seed and tool versions give the same files.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import check
from corpus import answer, kind, problems
from mutate import HERE, mutants, number
from split import split
from tools import TOOLS, Unreadable

LONGEST = 620  # characters of text and answer
COMMAND_SHARE = 8  # one text in so many starts with the command, where it need not
MOST_OF_A_KIND = 9
MOST_NOTES = 4  # a note says little without the message it belongs to


def with_command(sighting):
    """The text, under its command where it needs one or the seed says so."""
    if not sighting.command:
        return sighting.text
    if sighting.needs_command or number("command", sighting.text) % COMMAND_SHARE == 0:
        return f"$ {' '.join(sighting.command)}\n{sighting.text}"
    return sighting.text


def record_of(tool, mutant, sighting):
    found = sighting.diagnostic
    label = {
        "tool": tool.name,
        "severity": found.severity,
        "file": found.file,
        "line": found.line,
        "column": found.column,
        "code": found.code,
        "message": found.message,
    }
    return {
        "id": "",
        "tool": tool.name,
        "version": "",
        "kind": kind(tool.name, found.key, found.message),
        "form": sighting.form,
        "source": mutant.source,
        "mutation": mutant.rule,
        "text": with_command(sighting),
        "label": label,
    }


def grouped(mutants_in_turn, size):
    """Groups of at most `size` mutants, no two with one file name in a group."""
    groups = []
    for mutant in mutants_in_turn:
        name = Path(mutant.path).name
        for group in groups if size > 1 else []:
            if len(group) < size and name not in (Path(other.path).name for other in group):
                group.append(mutant)
                break
        else:
            groups.append([mutant])
    return groups


def records_of(tool, group):
    """All usable records from a group of mutants, in a folder of their own."""
    paths = {mutant.path: mutant for mutant in group}
    with tempfile.TemporaryDirectory() as outer:
        folder = Path(outer) / "project"
        for path, mutant in paths.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(mutant.text)
        tool.prepare(folder)
        try:
            found = list(tool.sightings(folder, list(paths) if tool.batch > 1 else group[0].path))
        except (Unreadable, UnicodeDecodeError, subprocess.TimeoutExpired):
            return []
    records = [record_of(tool, paths[one.diagnostic.file], one) for one in found if one.diagnostic.file in paths]
    return [record for record in records if usable(record, outer)]


def usable(record, outer):
    size = len(record["text"]) + len(answer(record["label"]))
    return size <= LONGEST and outer not in record["text"] and not any(problems(record))


def candidates(tool, jobs):
    with ThreadPoolExecutor(jobs) as pool:
        groups = grouped(mutants(tool.language, tool.name, tool.limit, tool.rules), tool.batch)
        found = pool.map(lambda group: records_of(tool, group), groups)
        records = [record for records in found for record in records]
    unique = {record["text"]: record for record in reversed(records)}
    return list(unique.values())


def cost(record):
    """Prefers short texts, loosely: the seed decides among texts of about one length."""
    size = len(record["text"]) // 60
    return size, number("choose", record["text"])


def choose(tool, records):
    """The records to keep: kinds in turn, blocks up to their share, one a mutant and form."""
    wanted = {"block": round(tool.target * tool.blocks_share)}
    wanted["line"] = tool.target - wanted["block"]
    chosen, kinds, seen = [], Counter(), set()
    for form in ("block", "line"):
        turns, count = [], Counter()
        for record in sorted((r for r in records if r["form"] == form), key=cost):
            turns.append((count[record["kind"]], number("kind", record["kind"], form), record))
            count[record["kind"]] += 1
        for _, _, record in sorted(turns, key=lambda turn: turn[:2]):
            place = record["source"], record["mutation"], record["label"]["file"], record["label"]["line"]
            if wanted[form] == 0:
                break
            count = kinds[record["kind"]], kinds["note"]
            note = record["label"]["severity"] == "note" and record["tool"] in ("gcc", "clang")
            if count[0] < MOST_OF_A_KIND and place not in seen and not (note and count[1] == MOST_NOTES):
                chosen.append(record)
                kinds[record["kind"]] += 1
                kinds["note"] += note
                seen.add(place)
                wanted[form] -= 1
    return chosen


def write(name, records):
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    (HERE / name).write_text("".join(lines), encoding="utf-8")


def read(name):
    return [json.loads(line) for line in (HERE / name).read_text(encoding="utf-8").splitlines()]


def show_tools(_arguments):
    for tool in TOOLS:
        missing = tool.missing()
        state = f"missing: {', '.join(missing)}" if missing else tool.version()
        print(f"{tool.name:12} {state}")


def collect(arguments):
    corpus = read("diagnostics.jsonl") if arguments.tools else []
    corpus = [record for record in corpus if record["tool"] not in (arguments.tools or [])]
    by_tool = defaultdict(list)
    for record in corpus:
        by_tool[record["tool"]].append(record)
    for tool in TOOLS:
        if arguments.tools and tool.name not in arguments.tools:
            continue
        if tool.missing():
            print(f"{tool.name}: not here ({', '.join(tool.missing())})", file=sys.stderr)
            continue
        found = candidates(tool, arguments.jobs)
        kept = choose(tool, found)
        version = tool.version()
        kept.sort(key=lambda record: number("id", record["text"]))
        for index, record in enumerate(kept, 1):
            record.update(id=f"{tool.name}-{index:03}", version=version)
        by_tool[tool.name] = kept
        kinds = len({record["kind"] for record in kept})
        print(f"{tool.name}: {len(kept)} of {len(found)} candidates, {kinds} kinds", file=sys.stderr, flush=True)
        write("diagnostics.jsonl", [record for other in TOOLS for record in by_tool[other.name]])


def divide(_arguments):
    for name, lines in split(read("diagnostics.jsonl")).items():
        write(f"{name}.jsonl", lines)


def verify(_arguments):
    faults = check.faults(HERE)
    print("\n".join(faults) if faults else "all invariants hold")
    return 1 if faults else 0


def stats(_arguments):
    check.print_counts(HERE)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    actions = {"tools": show_tools, "collect": collect, "split": divide, "check": verify, "stats": stats}
    for name, action in actions.items():
        command = commands.add_parser(name)
        command.set_defaults(action=action)
        if name == "collect":
            command.add_argument("--tools", nargs="+", help="only these; the others' records stay")
            command.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    return arguments.action(arguments) or 0


if __name__ == "__main__":
    sys.exit(main())
