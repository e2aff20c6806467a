#!/usr/bin/env python3
"""What the states of states.jsonl say: how well each predictor tells harmful from harmless adapters, and how often the gate's verdict is right.

    benches/detection/analyse.py [--write]

It prints Markdown. With --write it also puts the tables into docs/explanation/detection.md and the gate's rates into src/gate/detection.json.
It needs Python alone.
"""

import argparse
import collections
import json
import math
import pathlib
import random

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PAGE = ROOT / "docs/explanation/detection.md"
RATES = ROOT / "src/gate/detection.json"
# Harmful: at least so many points lost, overall or in one category; by a 95 % interval that lies wholly beyond.
POINTS, CATEGORY_POINTS = 0.05, 0.15
Z = 1.959964
# The two halves of the families. Thresholds are chosen on one and reported on the other, and the other way round.
HALVES = [{"plain", "small", "dirty", "style", "null-a"}, {"long", "large", "shuffled", "template", "replay", "null-b"}]
DRAWS = 1000
# What study.py measures in all.
TRAININGS, NULLS = 36, 20
# finetest's own limit on the net loss, which is judged along with drift.
MAX_NET_LOSS = 0.05


def normal_tail(z):
    return 0.5 * math.erfc(z / math.sqrt(2))


def paired(base, arm):
    """Net loss of an arm, its standard error, and n."""
    n = len(base)
    broken = sum(b == "1" and a == "0" for b, a in zip(base, arm))
    fixed = sum(b == "0" and a == "1" for b, a in zip(base, arm))
    loss = (broken - fixed) / n
    # Half a pair is added to each side, so that a category without a change has a width.
    spread = (broken + fixed + 1) / n - loss**2
    return loss, math.sqrt(max(spread, 0) / n), n


def truth(state):
    """`harmful`, `harmless` or `grey`, and the loss over all questions."""
    base, arm = ("".join(pair[side] for pair in state["truth"].values()) for side in (0, 1))
    loss, se, _ = paired(base, arm)
    # Each category's p of "at most 15 points lost", corrected for their number by Holm: the smallest decides whether there is one at all.
    tails = []
    for pair in state["truth"].values():
        lost, error, _ = paired(*pair)
        tails.append(normal_tail((lost - CATEGORY_POINTS) / error))
    in_category = min(tails) * len(tails) <= 0.025
    if loss - Z * se > POINTS or in_category:
        return "harmful", loss
    return ("harmless" if loss + Z * se < POINTS else "grey"), loss


def run_of(state):
    """States of one training are no independent witnesses."""
    return state["state"].split("/")[0]


def auc(pairs):
    """Share of (harmful, harmless) pairs that the score puts in the right order; `pairs`: (score, is harmful)."""
    ranked = sorted(pairs)
    good = rank = 0.0
    harmful = sum(1 for _, bad in ranked if bad)
    harmless = len(ranked) - harmful
    if not harmful or not harmless:
        return math.nan
    i = 0
    while i < len(ranked):
        j = i
        while j < len(ranked) and ranked[j][0] == ranked[i][0]:
            j += 1
        middle = rank + (j - i + 1) / 2
        good += middle * sum(1 for _, bad in ranked[i:j] if bad)
        rank += j - i
        i = j
    return (good - harmful * (harmful + 1) / 2) / (harmful * harmless)


def by_run(states, statistic):
    """95 % interval of a statistic, by drawing trainings with replacement."""
    groups = collections.defaultdict(list)
    for state in states:
        groups[run_of(state)].append(state)
    rng, names = random.Random(1), sorted(groups)
    values = []
    for _ in range(DRAWS):
        drawn = [state for name in rng.choices(names, k=len(names)) for state in groups[name]]
        value = statistic(drawn)
        if not math.isnan(value):
            values.append(value)
    values.sort()
    return values[int(0.025 * len(values))], values[int(0.975 * len(values)) - 1]


def at_most_5_percent(harmless):
    """The lowest threshold above which at most 5 % of these scores are."""
    ranked = sorted(harmless)
    return ranked[min(len(ranked) - 1, math.ceil(0.95 * len(ranked)) - 1)]


def half_of(state):
    # Null adapters of one task go with one half.
    family = state["family"] if state["family"] != "null" else ("null-a" if state["task"] == "orders" else "null-b")
    return next(i for i, half in enumerate(HALVES) if family in half)


def split(states):
    return [[s for s in states if half_of(s) == i] for i in (0, 1)]


def exact_limit(k, n, upper):
    """One-sided 95 % Clopper–Pearson limit, by bisection."""
    if n == 0:
        return math.nan

    def tail(p):
        terms = range(k, n + 1) if not upper else range(0, k + 1)
        return sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in terms)

    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if (tail(middle) > 0.05) == upper:
            low = middle
        else:
            high = middle
    return (0.0 if not upper and k == 0 else 1.0 if upper and k == n else (low + high) / 2)


def logistic(rows, labels, rounds=200):
    """Weights of a ridge logistic regression, by Newton's method on standardised columns."""
    width = len(rows[0])
    weights = [0.0] * (width + 1)
    for _ in range(rounds):
        gradient = [0.0] * (width + 1)
        hessian = [[0.0] * (width + 1) for _ in range(width + 1)]
        for row, label in zip(rows, labels):
            full = [1.0, *row]
            p = 1 / (1 + math.exp(-max(-30, min(30, sum(w * x for w, x in zip(weights, full))))))
            for i, x in enumerate(full):
                gradient[i] += (label - p) * x
                for j, y in enumerate(full):
                    hessian[i][j] += p * (1 - p) * x * y
        for i in range(width + 1):
            gradient[i] -= 0.5 * weights[i] * (i > 0)
            hessian[i][i] += 0.5 * (i > 0) + 1e-9
        step = solve(hessian, gradient)
        weights = [w + s for w, s in zip(weights, step)]
        if max(map(abs, step)) < 1e-8:
            break
    return weights


def solve(matrix, vector):
    rows = [[*row, value] for row, value in zip(matrix, vector)]
    n = len(rows)
    for i in range(n):
        pivot = max(range(i, n), key=lambda r: abs(rows[r][i]))
        rows[i], rows[pivot] = rows[pivot], rows[i]
        for r in range(n):
            if r != i:
                factor = rows[r][i] / rows[i][i]
                rows[r] = [a - factor * b for a, b in zip(rows[r], rows[i])]
    return [rows[i][n] / rows[i][i] for i in range(n)]


COMBINED = ["kl", "choice_loss", "net_loss", "spill_over"]


def features(state):
    p = state["predictors"]
    return [math.log(max(p["kl"], 1e-6)), p["choice_loss"], p["net_loss"], p.get("spill_over", 0.0)]


def combine(fit, score):
    """Scores of `score` by a logistic regression that is fitted on `fit`."""
    rows = [features(s) for s in fit]
    means = [sum(column) / len(rows) for column in zip(*rows)]
    sds = [max((sum((x - m) ** 2 for x in column) / len(rows)) ** 0.5, 1e-9) for column, m in zip(zip(*rows), means)]
    scaled = lambda s: [(x - m) / d for x, m, d in zip(features(s), means, sds)]  # noqa: E731
    weights = logistic([scaled(s) for s in fit], [s["truth_is"] == "harmful" for s in fit])
    return [weights[0] + sum(w * x for w, x in zip(weights[1:], scaled(s))) for s in score]


def mid_p(b, f):
    n = b + f
    if n == 0:
        return 0.5
    return (sum(math.comb(n, i) for i in range(b + 1, n + 1)) + math.comb(n, b) / 2) / 2**n


PREDICTORS = {
    "kl": "KL(base ‖ tuned) on base's answers, over questions",
    "kl_tokens": "KL(base ‖ tuned) on base's answers, over tokens",
    "reverse_kl": "KL(tuned ‖ base)",
    "total_variation": "total variation",
    "jensen_shannon": "Jensen–Shannon",
    "other_top1": "share of tokens with another first choice",
    "target_kl": "KL on base's answers to the target's prompts",
    "text_nll": "growth of the loss on a plain text",
    "choice_loss": "growth of the loss of the right choice",
    "net_loss": "net loss of passed controls",
    "lost_share": "share of passed controls that are lost",
    "worst_suite": "largest loss of one pack (\"any suite falls by 0.05\")",
    "mid_p": "McNemar's mid-p of flips",
    "exact_p": "McNemar's exact p of flips",
    "unpaired_z": "unpaired z of pass rates",
    "spill_over": "control answers in the target's form",
    "update_norm": "Frobenius norm of the update",
    "update_spectral": "largest singular value of the update",
}


def scores(state):
    p = dict(state["predictors"])
    base, arm = state["gate"]
    n = len(base)
    b = sum(x == "1" and y == "0" for x, y in zip(base, arm))
    f = sum(x == "0" and y == "1" for x, y in zip(base, arm))
    p["mid_p"] = 1 - mid_p(b, f)
    p["exact_p"] = 1 - (sum(math.comb(b + f, i) for i in range(b, b + f + 1)) / 2 ** (b + f) if b + f else 1.0)
    x, y = base.count("1") / n, arm.count("1") / n
    p["unpaired_z"] = (x - y) / math.sqrt((x * (1 - x) + y * (1 - y) + 1e-9) / n)
    p.setdefault("spill_over", 0.0)
    return p


def predictor_rows(known):
    rows = []
    halves = split(known)
    for key, words in PREDICTORS.items():
        have = [s for s in known if key in s["scores"]]
        if len(have) < len(known):
            continue
        area = lambda states: auc([(s["scores"][key], s["truth_is"] == "harmful") for s in states])  # noqa: E731
        caught, alarms, thresholds = crossed(halves, lambda _, states: [s["scores"][key] for s in states])
        rows.append((area(known), words, by_run(known, area), caught, alarms, thresholds))
    both = []
    for i in (0, 1):
        both += list(zip(combine(halves[i], halves[1 - i]), [s["truth_is"] == "harmful" for s in halves[1 - i]]))
    caught, alarms, thresholds = crossed(halves, combine)
    rows.append((auc(both), "logistic of KL, choice loss, net loss and spill-over, fitted on the other half", None, caught, alarms, thresholds))
    return sorted(rows, key=lambda row: -row[0])


def crossed(halves, score):
    """Harmful caught and harmless blamed, each half by the threshold that blames 5 % of the other half's harmless. `score(fit, states)`."""
    caught, alarms, thresholds = [0, 0], [0, 0], []
    for i in (0, 1):
        chosen, told = halves[i], halves[1 - i]
        own = score(chosen, chosen)
        threshold = at_most_5_percent([x for x, s in zip(own, chosen) if s["truth_is"] == "harmless"])
        thresholds.append(threshold)
        for x, s in zip(score(chosen, told), told):
            of = caught if s["truth_is"] == "harmful" else alarms
            of[0] += x > threshold
            of[1] += 1
    return caught, alarms, thresholds


def judged(limits, thresholds):
    """The gate's verdict on a suite from the limits of its measures: as src/gate/verdict.rs does."""
    kept, lost = thresholds
    drift, net = limits.get("drift"), limits.get("net_loss")
    if (drift and drift[0] > lost) or (net and net[0] > MAX_NET_LOSS):
        return "lost"
    if (drift and drift[1] <= kept) or (net and net[1] <= MAX_NET_LOSS):
        return "kept"
    return "not-shown"


def choose(states):
    """Drift within which controls are kept, and beyond which they are lost: 5 % of the harmful have less than the one, and 5 % of the harmless
    more than the other. Where that leaves no gap between the two, the middle of both, as a ratio, is both."""
    of = lambda kind: sorted(s["predictors"]["kl"] for s in states if s["truth_is"] == kind)  # noqa: E731
    harmless, harmful = of("harmless"), of("harmful")
    lost = at_most_5_percent(harmless)
    kept = harmful[int(0.05 * len(harmful))]
    return (kept, lost) if kept < lost else (math.sqrt(kept * lost),) * 2


def verdict_counts(states, threshold_of):
    """`{size: {truth: {verdict: count}}}`, each state's suites of a size sharing one vote."""
    made = {}
    for state in states:
        for size, suites in state["suites"].items():
            of = made.setdefault(int(size), {}).setdefault(state["truth_is"], collections.Counter())
            for limits in suites:
                of[judged(limits, threshold_of(state))] += 1 / len(suites)
    return made


def share(k, n):
    return f"{k:g} of {n:g}"


def report(states):
    for state in states:
        state["truth_is"], state["loss"] = truth(state)
        state["scores"] = scores(state)
    known = [s for s in states if s["truth_is"] != "grey"]
    lines = []
    count = lambda kind, of: sum(s["truth_is"] == kind for s in of)  # noqa: E731
    lines += ["| Family | Trainings | Harmful | Harmless | Grey |", "|---|--:|--:|--:|--:|"]
    for family in dict.fromkeys(s["family"] for s in states):
        of = [s for s in states if s["family"] == family]
        runs = "–" if family == "null" else len({run_of(s) for s in of})
        lines.append(f"| {family} | {runs} | {count('harmful', of)} | {count('harmless', of)} | {count('grey', of)} |")
    trained = {run_of(s) for s in states if s["family"] != "null"}
    lines.append(f"| all | {len(trained)} | {count('harmful', states)} | {count('harmless', states)} | {count('grey', states)} |")
    tables = {"states": "\n".join(lines)}

    lines = ["| Predictor | AUC | 95 % interval | Harmful caught | Harmless blamed |", "|---|--:|--:|--:|--:|"]
    for area, words, interval, caught, alarms, _ in predictor_rows(known):
        interval = f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else "–"
        lines.append(f"| {words} | {area:.3f} | {interval} | {share(*caught)} | {share(*alarms)} |")
    tables["predictors"] = "\n".join(lines)

    halves = split(known)
    chosen = [choose(half) for half in halves]
    final = choose(known)
    other = lambda state: chosen[1 - half_of(state)]  # noqa: E731
    counts = verdict_counts(known, other)
    lines = [
        "| Control questions | Harmful: shown lost | not shown | shown kept | Harmless: shown kept | not shown | shown lost |",
        "|--:|--:|--:|--:|--:|--:|--:|",
    ]
    sizes = []
    for size in sorted(counts):
        bad, good = counts[size].get("harmful", {}), counts[size].get("harmless", {})
        n_bad, n_good = count("harmful", known), count("harmless", known)
        cells = [bad.get("lost", 0), bad.get("not-shown", 0), bad.get("kept", 0), good.get("kept", 0), good.get("not-shown", 0), good.get("lost", 0)]
        lines.append(f"| {size} | " + " | ".join(f"{cell:.4g}" for cell in cells) + " |")
        sizes.append({"questions": size, "harmful": n_bad, "caught": math.floor(cells[0]), "passed": math.ceil(cells[2]),
                      "harmless": n_good, "kept": math.floor(cells[3]), "blamed": math.ceil(cells[5])})
    tables["verdicts"] = "\n".join(lines)

    lines = ["| Family left out | Thresholds of the others, nats/token | Harmful shown lost | shown kept | Harmless shown lost |", "|---|--:|--:|--:|--:|"]
    for family in dict.fromkeys(s["family"] for s in known):
        of = [s for s in known if s["family"] == family]
        thresholds = choose([s for s in known if s["family"] != family])
        counts = verdict_counts(of, lambda _: thresholds)[max(sizes, key=lambda s: s["questions"])["questions"]]
        bad, good = counts.get("harmful", {}), counts.get("harmless", {})
        lines.append(f"| {family} | {thresholds[0]:.3f}, {thresholds[1]:.3f} | {share(bad.get('lost', 0), count('harmful', of))} | {share(bad.get('kept', 0), count('harmful', of))} "
                     f"| {share(good.get('lost', 0), count('harmless', of))} |")
    tables["families"] = "\n".join(lines)

    largest = max(sizes, key=lambda s: s["questions"])
    caught, n = largest["caught"], largest["harmful"]
    blamed, m = largest["blamed"], largest["harmless"]
    harmful = [s for s in known if s["truth_is"] == "harmful"]
    missed = [s for s in harmful if judged(s["suites"][str(largest["questions"])][0], other(s)) != "lost"]
    losses = sorted(100 * s["loss"] for s in missed)
    usual = sorted(100 * s["loss"] for s in harmful)[len(harmful) // 2]
    by_family = collections.Counter(s["family"] for s in missed).most_common()
    tables["result"] = (
        f"With {largest['questions']} control questions the gate showed {caught} of {n} harmful adapters lost: at least {100 * exact_limit(caught, n, False):.0f} % "
        f"with 95 % confidence. It showed {blamed} of {m} harmless ones lost: at most {100 * exact_limit(blamed, m, True):.0f} %. "
        f"Harmful adapters that it showed kept: {largest['passed']}. The rest it left open: not shown.\n\n"
        f"The {len(missed)} that it did not show lost had lost {losses[0]:.0f} to {losses[-1]:.0f} points of the truth's questions; the median of all harmful ones is {usual:.0f}. "
        f"By family: {', '.join(f'{family} {k}' for family, k in by_family)}.\n\n"
        f"| Families | Kept within, nats/token | Lost beyond |\n|---|--:|--:|\n"
        f"| the second half, for verdicts on the first | {chosen[1][0]:.3f} | {chosen[1][1]:.3f} |\n"
        f"| the first half, for verdicts on the second | {chosen[0][0]:.3f} | {chosen[0][1]:.3f} |\n"
        f"| all: finetest's own, rounded | {final[0]:.3f} | {final[1]:.3f} |")
    nulls = sum(s["family"] == "null" for s in states)
    if len(trained) < TRAININGS or nulls < NULLS:
        tables["result"] = f"The study is not complete: {len(trained)} of {TRAININGS} trainings and {nulls} of {NULLS} null adapters are measured.\n\n" + tables["result"]
    return tables, {"thresholds": [round(value, 3) for value in final], "suites": sizes}


def put(page, tables):
    """Between `<!-- NAME -->` and `<!-- /NAME -->` of the page goes the table of that name."""
    text = page.read_text()
    for name, table in tables.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        before, rest = text.split(begin)
        text = before + begin + table + "\n" + end + rest.split(end, 1)[1]
    page.write_text(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the tables and the rates into docs and src")
    args = parser.parse_args()
    states = [json.loads(line) for line in (HERE / "states.jsonl").read_text().splitlines()]
    tables, rates = report(states)
    for name, table in tables.items():
        print(f"## {name}\n\n{table}\n")
    print(json.dumps(rates))
    if args.write:
        put(PAGE, tables)
        RATES.write_text(json.dumps(rates, indent=2) + "\n")


if __name__ == "__main__":
    main()
