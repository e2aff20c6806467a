"""Breaks the small sources in data/sources, the same way every time.

A mutant is one source, placed at some path, with a few words exchanged, a few comment
lines above, and one rule of mutations.toml applied at one place.
"""

import hashlib
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
SEED = "finetest-diagnostics-1"
WORD = r"(?<![A-Za-z]){}(?![a-z])"


def number(*parts):
    """A large number that depends on nothing but the parts and the seed."""
    text = "\x1f".join([SEED, *map(str, parts)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def pick(options, *parts):
    return options[number(*parts) % len(options)]


def load(name):
    with open(HERE / name, "rb") as handle:
        return tomllib.load(handle)


@dataclass(frozen=True)
class Mutant:
    source: str  # below data/
    rule: str
    path: str  # where the tool is to see it
    text: str


def fill(template, variations, *parts):
    """Puts words and a number in place of @noun@ and the like."""
    noun = pick(variations["nouns"], "noun", *parts)
    verb = pick(variations["verbs"], "verb", *parts)
    words = {
        "noun": noun,
        "Noun": noun.capitalize(),
        "NOUN": noun.upper(),
        "verb": verb,
        "Verb": verb.capitalize(),
        "num": str(2 + number("num", *parts) % 8),
        "module": pick(variations["modules"], "module", *parts),
        "gopackage": pick(variations["gopackages"], "gopackage", *parts),
    }
    return re.sub(rf"@({'|'.join(words)})@", lambda m: words[m[1]], template)


def expand(replacement, match):
    """Puts the groups of the match in place of \\1, \\2 ..."""

    def group(found):
        index = int(found[1])
        return found[0] if index > match.re.groups else match.group(index) or ""

    return re.sub(r"\\([1-9])", group, replacement)


def exchange_words(text, variations, *parts):
    """Replaces some of the source's own words by others not used in it."""
    for word, others in variations["synonyms"].items():
        other = pick([word, *others], "synonym", word, *parts)
        if other == word or re.search(other, text, re.IGNORECASE):
            continue
        text = re.sub(WORD.format(word), other, text)
        text = re.sub(WORD.format(word.upper()), other.upper(), text)
        camel = "".join(part.capitalize() for part in other.split("_"))
        text = re.sub(rf"{word.capitalize()}(?![a-z])", camel, text)
    return text


def add_lines(text, language, variations, *parts):
    """Puts up to nine comment lines above the source, below a first line that must stay first."""
    mark = variations["comment_mark"][language]
    lines = []
    for index in range(number("lines", *parts) % 10):
        line = fill(pick(variations["comments"]["lines"], "line", index, *parts), variations, *parts)
        lines.append(f"{mark} {line}".rstrip() + "\n" if line else "\n")
    first, rest = "", text
    if text.startswith(("#!", "<?php", "---")):
        first, rest = text.split("\n", 1)
        first += "\n"
    return first + "".join(lines) + rest


def place(source, language, variations, *parts):
    """A path for the mutant: one of the language's directories, and a file name."""
    folder = pick(variations["directories"][language], "folder", *parts)
    stem = source.stem
    if language != "java" and number("stem", *parts) % 3 == 0:
        stem = pick(variations["nouns"], "stem-noun", *parts)
        stem = stem.capitalize() if source.stem[0].isupper() else stem
    return f"{folder}/{stem}{source.suffix}"


def mutants_of(source, language, rule, pattern, replacement, variations, tool):
    """All mutants of one source by one rule, in the order of the places."""
    parts = (tool, source.name, rule)
    text = add_lines(exchange_words(source.read_text(), variations, *parts), language, variations, *parts)
    for index, match in enumerate(re.finditer(pattern, text, re.MULTILINE)):
        inserted = fill(expand(replacement, match), variations, index, *parts)
        broken = text[: match.start()] + inserted + text[match.end() :]
        if broken == text:
            continue
        path = place(source, language, variations, index, *parts)
        yield Mutant(f"sources/{language}/{source.name}", rule, path, broken)


def mutants(language, tool, limit, wanted=""):
    """At most `limit` mutants for a tool, taken in turn from the rules that match `wanted`."""
    variations = load("variations.toml")
    rules = load("mutations.toml")[language]
    sources = sorted((HERE / "sources" / language).iterdir())
    turns = []
    for rule, (pattern, replacement) in rules.items():
        if not re.match(wanted, rule):
            continue
        found = []
        for source in sources:
            found += mutants_of(source, language, rule, pattern, replacement, variations, tool)
        found.sort(key=lambda m: number("order", tool, m.source, m.rule, m.path, m.text))
        turns += [(turn, number("turn", tool, rule), mutant) for turn, mutant in enumerate(found)]
    turns.sort(key=lambda entry: entry[:2])
    return [mutant for _, _, mutant in turns[:limit]]
