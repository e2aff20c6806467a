class User:
    def __init__(self, name: str, age: int) -> None:
        self.name = name
        self.age = age
        self.tags: list[str] = []

    def add_tag(self, tag: str) -> None:
        if tag not in self.tags:
            self.tags.append(tag)

    def is_adult(self) -> bool:
        return self.age >= 18


def find(users: list[User], name: str) -> User | None:
    for user in users:
        if user.name == name:
            return user
    return None
