"""What a record of the corpus is: its label, its kind, and when it may stand."""

import json
import re

from mutate import load

SYSTEM = "Turn the diagnostic into JSON with the keys tool, severity, file, line, column, code, message."
KEYS = ["tool", "severity", "file", "line", "column", "code", "message"]
QUOTED = r"""(?<![\w])(?:`[^`']*'|`[^`]*`|'[^']*'|"[^"]*"|‘[^’]*’)"""
ABSOLUTE = re.compile(r"(?<![\w./:>)\]])/(?:tmp|home|root|usr|opt|etc|work|var|bin|lib|private|Users)\b|[A-Za-z]:\\\\")

# How a severity is to be seen in a text that does not spell it out.
UNSPOKEN = {
    "ruff": lambda text, label: label["severity"] == "error",
    "go": lambda text, label: label["severity"] == "error",
    "perl": lambda text, label: label["severity"] in ("error", "warning"),
    "bash": lambda text, label: label["severity"] == "error",
    "ruby": lambda text, label: label["severity"] == "error" and "warning:" not in text,
    "pylint": lambda text, label: label["severity"].startswith({"R": "refactor", "C": "convention", "W": "warning", "E": "error"}[label["code"][0]]),
    "jshint": lambda text, label: label["severity"][0].upper() == label["code"][0],
    "oxlint": lambda text, label: label["severity"] == {"x": "error", "!": "warning"}[re.search(r"^  ([x!]) ", text, re.M)[1]],
    "luac": lambda text, label: label["severity"] == "error",
}


def answer(label):
    return json.dumps(label, ensure_ascii=False)


def example(record):
    """A record as a line of training data."""
    said = [("system", SYSTEM), ("user", record["text"]), ("assistant", answer(record["label"]))]
    return {"messages": [{"role": role, "content": content} for role, content in said]}


def template(message):
    """The message without what it says about this one source."""
    variations = load("variations.toml")
    words = "|".join(re.escape(word) for word in [*variations["nouns"], *variations["verbs"]])
    message = re.sub(QUOTED, "Q", re.sub(r"\bnear '.*", "near Q", message))
    message = re.sub(r"\b(undefined: |label |class |unexpected )[\w.]+", r"\1X", message)
    message = re.sub(r"\bold_?[a-z]\w*", "X", message)
    message = re.sub(rf"\b(?:old_?)?(?:{words})\w*\b", "X", message, flags=re.IGNORECASE)
    message = re.sub(r"\b\w+(?:[._]\w+)+\b|\b[a-z]+[A-Z]\w*\b", "X", message)
    return re.sub(r"\d+", "N", message)


def kind(tool, key, message):
    """The group a record belongs to: the tool's own code, or the message as a template."""
    return f"{tool} {key}" if key else f"{tool}: {template(message)}"


def problems(record):
    """What keeps a record out: a label that its text does not show, or a path that is not relative."""
    text, label = record["text"], record["label"]
    if list(label) != KEYS:
        yield "keys"
    if ABSOLUTE.search(text):
        yield "absolute path"
    if any(not isinstance(label[key], str | None) for key in ("tool", "severity", "file", "code", "message")):
        yield "type"
    if not label["message"] or "\n" in label["message"] or label["message"] not in text:
        yield "message"
    if label["code"] is not None and label["code"] not in text:
        yield "code"
    if not shows_place(text, label):
        yield "place"
    if label["severity"] not in text.lower() and not UNSPOKEN.get(label["tool"], lambda *_: False)(text, label):
        yield "severity"


def shows_place(text, label):
    """Whether file, line and column stand in the text, in this order and close together."""
    column = "" if label["column"] is None else rf"\D{{1,8}}\b{label['column']}\b"
    return re.search(rf"{re.escape(label['file'])}[^\d\w]{{1,6}}(?:(?:on )?line )?{label['line']}\b{column}", text) is not None


def masked(text):
    """A text without file names, numbers and quoted names, to compare it with others."""
    text = re.sub(r"[\w./-]+\.(?:rs|c|py|js|ts|sh|pl|pm|java|lua|rb|php|f90|go|ya?ml|asm)\b", "F", text)
    return re.sub(r"\d+", "N", re.sub(QUOTED, "Q", text))


def shingles(text):
    text = masked(text)
    return {text[index : index + 5] for index in range(max(len(text) - 4, 1))}


def near(left, right):
    """Whether two sets of shingles overlap by more than 0.8."""
    if min(len(left), len(right)) <= 0.8 * max(len(left), len(right)):
        return False
    common = len(left & right)
    return common > 0.8 * (len(left) + len(right) - common)
