"""docs/performance.md out of the raw results."""
import json
from statistics import median

from turns import QUIET

BEST = "best"
OURS = "finetest"
# In the same figures, by the processor's instructions for it.
OURS_BF16 = "finetest bf16"
HAS_BF16 = "bf16"
# What is compared: finetest's side and the peer's ("best": the fastest of a program's), and how many times as fast finetest is to be.
ROWS = (
    ("train-short", "training, short examples", OURS, "PEFT f32", None),
    ("train-short", "training, short examples", BEST, "PEFT f32", 2.0),
    ("train-short", "training, short examples", BEST, "PEFT " + BEST, 1.5),
    ("train-full", "training, 4 × 256 tokens", OURS, "PEFT f32", None),
    ("train-full", "training, 4 × 256 tokens", BEST, "PEFT " + BEST, 1.2),
    ("score", "scoring, 8 × 256 tokens", OURS, "transformers f32", None),
    ("score", "scoring, 8 × 256 tokens", BEST, "transformers f32", 1.5),
    ("score", "scoring, 8 × 256 tokens", BEST, "transformers bf16", 1.0),
    ("gen1", "decoding, one answer", OURS, "transformers " + BEST, 1.0),
    ("gen1", "decoding, one answer", OURS, "llama.cpp", 1.0),
    ("gen16", "decoding, 16 answers", OURS, "transformers " + BEST, 1.0),
    ("gen16", "decoding, 16 answers", OURS, "llama.cpp", 1.0),
    ("choices", "100 four-choice questions, base and tuned", OURS, "lm-evaluation-harness", 5.0),
    ("project", "the example project, base and tuned", OURS, "transformers + PEFT", 4.0),
    ("project-llama.cpp", "the example project, base and tuned", OURS, "llama.cpp's API", 1.5),
)
# At most this share of the peak memory of PEFT in f32.
MEMORY = {"train-short": ("PEFT f32", 1 / 3), "train-full": ("PEFT f32", 1 / 3)}
GEMM_AIM = {"train-full": 0.60}
# finetest against itself: measure, what is done, the side, the side it is compared with, and how many times its time it may take at most.
OWN = (
    ("arms", "one answer of base and of an adapter", "2 arms", "1 arm", 1.25),
    ("arms", "one answer of base and of seven adapters", "8 arms", "1 arm", 2.0),
    ("threads-decode", "decoding, 16 answers", "2 threads", "1 thread", None),
    ("threads-score", "scoring, 8 × 256 tokens", "2 threads", "1 thread", None),
)

TEXT = """# Performance

This page compares finetest with other programs that do the same work. `python3 benches/peers/run.py` measured all of them in turn on one
machine and wrote the page. The raw figures are in [{raw}]({raw}). Absolute figures hold for this machine and hour. The ratios are the
result.

{machine}

{table}

A figure is a median, with the lowest and the highest in brackets. Figures without a unit are tokens per second. Each repetition of
finetest is followed by one of each peer. A ratio is that of neighbours: its median and its spread. n counts the pairs during which other
processes used less than {quiet:.0f} % of the machine.{disturbed}

**Model.** {model}, {parameters:.1f} M weights. The peers have the weights of the same GGUF file, widened to f32 by transformers.

**Training.** LoRA of rank 16 on all linear layers, AdamW, in f32 or bf16. In bf16, finetest computes the products with the base's weights
(`[train] bf16`, `[model] dtype`), and PEFT uses autocast. Short examples are 8 per step, with 75–105 tokens of prompt and 20–40 of
completion. PEFT pads them. Tokens are those of the examples, without padding.

**Scoring and decoding.** Scoring computes log-likelihoods of all tokens. Decoding generates 128 greedy tokens after a prompt of 40.

**Whole processes.** The four-choice questions and the example project are timed as whole processes, with an empty cache.

- The harness, and the script with transformers and PEFT, run once for base and once for tuned.
- The script batches 16 similar prompts, and computes answers, choices and drift. finetest's time also has its report and adapter check.
- llama.cpp's API is `benches/llama_project.rs`. It is one process that loads the model once and has a context for each model of the run.
  It takes one prompt after another, each evaluated in one batch, on all cores, with llama.cpp's other defaults. It computes only answers
  and choices.

**The machine's limit** is the best speed that was measured on this machine.

- For training and scoring it is the fastest matrix product of the same precision that was measured (f32 {gemm}{gemm_bf16}). The share
  counts the products that the result needs.
- A training of LoRA is counted exactly. The forward pass has 2 operations per weight, those of the head only where there is a loss. The
  backward pass has as many, for the inputs alone, because the weights are frozen. Adapter and attention count three times.
- Full training is usually counted as three forward passes. That would make {usual} of the {exact} on full batches.
- For decoding one answer it is the memory's read bandwidth ({read}). All weights are read once per token.

## Models and threads

{own}

This is the time of 128 tokens after a prompt of 8, or of the same work, against that of one model or thread in the same run. A further
model of a run (an arm) is one more row of the batch. All but base have an adapter of rank 16 on all linear layers.

## Peak memory

{memory}

Peak memory is the most that a process held at once, with mapped files. Of several processes one after another, it is the largest.

## The same work

{same}
"""


def number(value):
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def spread(values, unit=""):
    middle = f"{number(median(values))}{unit}"
    return middle if len(values) == 1 else f"{middle} ({number(min(values))}–{number(max(values))})"


def quiet_rounds(*sides):
    """Rounds during which the machine was quiet for every side, and whether there were enough; else the least disturbed three."""
    rounds = list(zip(*(side["rounds"] for side in sides)))
    noise = lambda pair: max(r["others"] for r in pair)
    calm = [pair for pair in rounds if noise(pair) < QUIET]
    if len(calm) >= min(3, len(rounds)):
        return calm, True
    return sorted(rounds, key=noise)[:3], False


def middle(side):
    rounds, _ = quiet_rounds(side)
    return median(r["rate"] for r, in rounds)


def peer_of(measure, wanted):
    """Name of the side that a row compares with: the named one, or the fastest of a program's."""
    program, _, which = wanted.rpartition(" ")
    if which != BEST:
        return wanted if wanted in measure["sides"] else None
    there = [n for n, side in measure["sides"].items() if n.startswith(program) and side["rounds"] and (program or is_ours(n))]
    return max(there, key=lambda n: middle(measure["sides"][n]), default=None)


def is_ours(name):
    return name in (OURS, OURS_BF16)


def limits(results):
    side = results["measures"].get("limits", {}).get("sides", {}).get("limits", {"rounds": []})
    if not side["rounds"]:
        return {}
    rounds, _ = quiet_rounds(side)
    return {name: [r["rates"][name] for r, in rounds] for name in rounds[0][0]["rates"]}


def peak_product(found, kind="product"):
    """The fastest of the products that were measured; `kind`: "product" or "bf16 product"."""
    products = {name: median(rates) for name, rates in found.items() if name.startswith(kind)}
    return max(products.items(), key=lambda p: p[1], default=(None, None))


def share_of_limit(name, measure, found, side, rate):
    peak = peak_product(found, "bf16 product" if side == OURS_BF16 else "product")[1]
    if measure.get("operations"):
        return measure["operations"] * rate / 1e9 / peak if peak else None
    if name == "gen1" and measure.get("weight_bytes") and "memory read" in found:
        return measure["weight_bytes"] * rate / 1e9 / median(found["memory read"])
    return None


def mark(holds):
    return "✓" if holds else "✗"


def row(results, found, name, what, own, wanted, aim):
    measure = results["measures"].get(name)
    asked = "" if aim is None else f"≥ {aim:g}×"
    if measure is None:
        return [what, "not measured", wanted, "", asked, "", ""], True
    own, peer = peer_of(measure, own) or OURS, peer_of(measure, wanted)
    ours = measure["sides"].get(own, {"rounds": []})
    of = "" if own == OURS else own.removeprefix(OURS + " ") + ": "
    theirs = measure["sides"].get(peer, {"rounds": []})
    if not (ours["rounds"] and theirs["rounds"]):
        why = ours.get("missing") or theirs.get("missing") or "not measured"
        mine = middle(ours) if ours["rounds"] and not measure["whole"] else None
        ratio = mine / theirs["tried"] if mine and "tried" in theirs else None
        asked += f" {mark(ratio >= aim)}" if ratio and aim else ""
        return [what, of + number(mine) if mine else "", f"{wanted}: {why}", f"{number(ratio)}×" if ratio else "", asked, "", ""], True
    pairs, calm = quiet_rounds(ours, theirs)
    ratios = [a["rate"] / b["rate"] for a, b in pairs]
    shown = (lambda r: 1 / r["rate"]) if measure["whole"] else (lambda r: r["rate"])
    unit = " s" if measure["whole"] else ""
    share = share_of_limit(name, measure, found, own, median(a["rate"] for a, _ in pairs))
    limit = "" if share is None else f"{100 * share:.0f} %"
    # What a disturbed machine says decides nothing.
    judged = lambda holds: " " + mark(holds) if calm else ""
    if name in GEMM_AIM and share is not None:
        limit += f" (aim {100 * GEMM_AIM[name]:.0f} %){judged(share >= GEMM_AIM[name])}"
    if aim:
        asked += judged(median(ratios) >= aim)
    return [what, of + spread([shown(a) for a, _ in pairs], unit), f"{peer}: {spread([shown(b) for _, b in pairs], unit)}",
            spread(ratios, "×"), asked, limit, f"{len(pairs)}{'' if calm else ' *'}"], calm


def own_rows(results):
    rows = []
    for name, what, side, than, aim in OWN:
        measure = results["measures"].get(name, {"sides": {}})
        one, other = (measure["sides"].get(n, {"rounds": []}) for n in (side, than))
        if not (one["rounds"] and other["rounds"]):
            rows.append([what, f"{side}: not measured", "", "", ""])
            continue
        pairs, calm = quiet_rounds(one, other)
        ratios = [b["rate"] / a["rate"] for a, b in pairs]
        judged = "" if aim is None else f"≤ {aim:g}×" + (f" {mark(median(ratios) <= aim)}" if calm else "")
        rows.append([what, f"{side} to {than}", spread(ratios, "×"), judged, f"{len(pairs)}{'' if calm else ' *'}"])
    return rows


def table(head, rows):
    lines = ["| " + " | ".join(r) + " |" for r in [head, *rows]]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def memory_rows(results):
    rows = []
    for name, what in {r[0]: r[1] for r in ROWS}.items():
        measure = results["measures"].get(name)
        peaks = {n: max(r["peak_mb"] for r in s["rounds"]) for n, s in (measure or {"sides": {}})["sides"].items() if s["rounds"]}
        if OURS not in peaks:
            continue
        others = {n: mb for n, mb in peaks.items() if not is_ours(n)}
        least, most = min(others.values(), default=None), max(mb for n, mb in peaks.items() if is_ours(n))
        share = "" if least is None else f"{most / least:.2f}"
        than, aim = MEMORY.get(name, (None, None))
        if than in others:
            share += f"; of {than}'s {most / others[than]:.2f} (aim ≤ {aim:.2f}) {mark(most / others[than] <= aim)}"
        own = f"{peaks[OURS]:.0f} MB" + (f"; bf16: {peaks[OURS_BF16]:.0f} MB" if OURS_BF16 in peaks else "")
        rows.append([what, own, "; ".join(f"{n}: {mb:.0f} MB" for n, mb in others.items()), share])
    return rows


def usual_share(results, found):
    """The fraction on full batches, exact and as thrice a forward pass of two operations a weight."""
    measure = results["measures"].get("train-full")
    peak = peak_product(found)[1]
    if not (measure and peak and measure["sides"].get(OURS, {}).get("rounds")):
        return "—", "—"
    rate = middle(measure["sides"][OURS])
    usual = 6 * results["facts"]["parameters"] * rate / 1e9 / peak
    return f"{100 * usual:.0f} %", f"{100 * measure['operations'] * rate / 1e9 / peak:.0f} %"


def machine(results):
    m = results["machine"]
    programs = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    text = f"{computer(m)}; {m['date']}. finetest {m['finetest']}; {programs}."
    return text + "".join(f" {note}" for note in results.get("notes", [])) + apart(results)


def computer(m):
    return f"{m['cpu']}, {m['cores']} cores ({m['vector']}), {m['memory_gb']} GB"


def apart(results):
    """Which measures are not of the run that the page's head tells, and what was otherwise."""
    runs = {}
    for name, measure in results["measures"].items():
        if made := measure.get("made"):
            m = made["machine"]
            told = [m["date"], f"finetest {m['finetest']}"] + [computer(m)] * (computer(m) != computer(results["machine"]))
            told += [f"{n} {v}" for n, v in made["versions"].items() if results["versions"].get(n) != v]
            runs.setdefault(", ".join(told), []).append(f"`{name}`")
    return "".join(f" Measured apart: {', '.join(names)} ({told})." for told, names in runs.items())


def render(results, raw):
    found = limits(results)
    has_bf16 = lambda name: results["measures"].get(name, {}).get("sides", {}).get(OURS_BF16, {"rounds": []})["rounds"]
    # Without bf16 the fastest is the one in f32, which needs no second row.
    made = [row(results, found, *r) for r in ROWS if r[4] is not None or has_bf16(r[0])]
    product, _ = peak_product(found)
    product_bf16, _ = peak_product(found, "bf16 product")
    same = [f"- {what}: {text}" for name, what in {r[0]: r[1] for r in ROWS}.items()
            for text in results["measures"].get(name, {}).get("agreement", [])]
    dropped = [f"- {what}, {side}: {s['missing']}" for name, what in {r[0]: r[1] for r in ROWS}.items()
               for side, s in results["measures"].get(name, {}).get("sides", {}).items() if s.get("missing")]
    usual, exact = usual_share(results, found)
    disturbed = "" if all(calm for _, calm in made) else (
        " Where n has a star too few were quiet, and the least disturbed are shown: such figures decide nothing.")
    return TEXT.format(
        raw=raw, machine=machine(results), quiet=100 * QUIET, disturbed=disturbed,
        model=results["facts"]["name"], parameters=results["facts"]["parameters"] / 1e6, usual=usual, exact=exact,
        table=table(["", "finetest", "peer", "ratio", "aim", "of the machine's limit", "n"], [cells for cells, _ in made]),
        gemm=f"{spread(found[product])} GFLOP/s, {product.removeprefix('product ')}" if product else "not measured",
        gemm_bf16=f"; bf16 {spread(found[product_bf16])}, {product_bf16.removeprefix('bf16 product ')}" if product_bf16 else "",
        read=f"{spread(found['memory read'])} GB/s; copying {spread(found['memory copy'])} GB/s" if found else "not measured",
        own=table(["", "", "time", "aim", "n"], own_rows(results)),
        memory=table(["", "finetest", "peers", "of the least"], memory_rows(results)),
        same="\n".join(same + dropped) or "Not compared.",
    )


def write(page):
    raw = page.with_suffix(".json")
    page.write_text(render(json.loads(raw.read_text()), raw.name))
