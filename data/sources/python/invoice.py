from dataclasses import dataclass


@dataclass
class Line:
    name: str
    price: float
    amount: int = 1

    def total(self) -> float:
        return self.price * self.amount


def grand_total(lines: list[Line], discount: float = 0.0) -> float:
    result = sum(line.total() for line in lines)
    if discount > 0:
        result = result * (1 - discount)
    return round(result, 2)


def cheapest(lines: list[Line]) -> Line:
    return min(lines, key=lambda line: line.price)
