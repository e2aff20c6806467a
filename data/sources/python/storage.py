import json
from pathlib import Path


class Store:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.cache: dict[str, int] = {}

    def load(self, name: str) -> dict[str, int]:
        path = self.root / name
        with open(path, encoding="utf-8") as handle:
            self.cache = json.load(handle)
        return self.cache

    def save(self, name: str) -> None:
        text = json.dumps(self.cache)
        (self.root / name).write_text(text, encoding="utf-8")

    def get(self, key: str, default: int = 0) -> int:
        return self.cache.get(key, default)
