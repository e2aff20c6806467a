from collections import deque

Graph = dict[str, list[str]]


def reachable(graph: Graph, start: str) -> set[str]:
    seen = {start}
    queue = deque([start])
    while queue:
        city = queue.popleft()
        for other in graph.get(city, []):
            if other not in seen:
                seen.add(other)
                queue.append(other)
    return seen


def report(graph: Graph) -> str:
    rows = []
    for city in sorted(graph):
        rows.append(f"{city}: {len(graph[city])}")
    return "\n".join(rows)
