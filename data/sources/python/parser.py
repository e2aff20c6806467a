import re
from typing import Iterator

TOKEN = re.compile(r"\d+|[a-z]+|[-+*/()]")


def tokens(text: str) -> Iterator[str]:
    for match in TOKEN.finditer(text):
        yield match.group(0)


def parse_pair(line: str) -> tuple[str, int]:
    try:
        key, value = line.split("=", 1)
        return key.strip(), int(value)
    except ValueError:
        return line, 0


def depth(text: str) -> int:
    level = 0
    for token in tokens(text):
        if token == "(":
            level += 1
        elif token == ")":
            level -= 1
    return level
