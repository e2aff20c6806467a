import math

READINGS = {"hall": 19.5, "attic": 24.0}


def mean(values: list[float]) -> float:
    total = 0.0
    for value in values:
        total += value
    return total / len(values)


def spread(values: list[float]) -> float:
    center = mean(values)
    squares = [(value - center) ** 2 for value in values]
    return math.sqrt(mean(squares))


def hottest() -> str:
    best = max(READINGS, key=lambda room: READINGS[room])
    return best.title()
