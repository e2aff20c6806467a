"""A project's questions through transformers and PEFT, one arm a process, as finetest asks them: greedy answers, choices, drift.

    python project.py HF_DIR QUESTIONS.json base OUT.json
    python project.py HF_DIR QUESTIONS.json tuned OUT.json ADAPTER BASE_OUT.json

Drift is computed in the second process, on base's answers to the control cases, base being the model with its adapter switched off.
"""
import json
import sys

from quiet import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

BATCH = 16


def batches(items, key):
    """Batches of items that are alike, each item with its place."""
    order = sorted(range(len(items)), key=lambda i: key(items[i]))
    return [[(i, items[i]) for i in order[at:at + BATCH]] for at in range(0, len(order), BATCH)]


def padded(rows, side):
    longest = max(map(len, rows))
    fill = [[0] * (longest - len(row)) for row in rows]
    mask = [([0] * len(f) + [1] * len(r)) if side == "left" else ([1] * len(r) + [0] * len(f)) for f, r in zip(fill, rows)]
    ids = [f + r if side == "left" else r + f for f, r in zip(fill, rows)]
    return torch.tensor(ids), torch.tensor(mask)


def answers(model, prompts, limits, stop):
    found = [None] * len(prompts)
    wanted = [(i, prompt, limit) for i, (prompt, limit) in enumerate(zip(prompts, limits)) if limit]
    for batch in batches(wanted, key=lambda w: (w[2], len(w[1]))):
        ids, mask = padded([prompt for _, (_, prompt, _) in batch], "left")
        out = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=max(w[2] for _, w in batch), do_sample=False,
                             eos_token_id=stop, pad_token_id=stop)
        for row, (_, (i, _, limit)) in zip(out[:, ids.shape[1]:].tolist(), batch):
            row = row[:limit]
            found[i] = row[:row.index(stop)] if stop in row else row
    return found


def logits_after(model, pairs):
    """Logits that predict each of the tokens that follow a prompt; (prompt, tokens) each."""
    ids, mask = padded([prompt + tokens for prompt, tokens in pairs], "right")
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return [logits[row, len(p) - 1:len(p) + len(t) - 1].float() for row, (p, t) in enumerate(pairs)]


def choices(model, pairs):
    scores = [0.0] * len(pairs)
    for batch in batches(pairs, key=lambda pair: len(pair[0]) + len(pair[1])):
        for (i, (_, tokens)), logits in zip(batch, logits_after(model, [pair for _, pair in batch])):
            scores[i] = F.log_softmax(logits, -1).gather(-1, torch.tensor(tokens)[:, None]).sum().item()
    return scores


def drift(model, pairs):
    total, positions = 0.0, 0
    for batch in batches(pairs, key=lambda pair: len(pair[0]) + len(pair[1])):
        pairs_of = [pair for _, pair in batch]
        tuned = logits_after(model, pairs_of)
        with model.disable_adapter():
            base = logits_after(model, pairs_of)
        for p, q in zip(base, tuned):
            p, q = F.log_softmax(p, -1), F.log_softmax(q, -1)
            total += (p.exp() * (p - q)).sum().item()
            positions += len(p)
    return total / max(1, positions)


@torch.inference_mode()
def main():
    path, questions, arm, out, *tuned = sys.argv[1:]
    with open(questions) as f:
        asked = json.load(f)
    tok = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    if arm == "tuned":
        from peft import PeftModel
        model = PeftModel.from_pretrained(model, tuned[0]).eval()
    prompts = []
    for question in asked:
        text = question["prompt"].get("text")
        if text is None:
            text = tok.apply_chat_template(question["prompt"]["messages"], add_generation_prompt=True, tokenize=False)
        prompts.append(tok(text, add_special_tokens=False).input_ids)
    found = answers(model, prompts, [question["max_tokens"] for question in asked], tok.eos_token_id)
    pairs = [(p, tok(c, add_special_tokens=False).input_ids) for p, q in zip(prompts, asked) for c in q["choices"]]
    result = {"answers": found, "choices": choices(model, pairs)}
    if arm == "tuned":
        with open(tuned[1]) as f:
            base = json.load(f)["answers"]
        control = [(p, a) for p, a, q in zip(prompts, base, asked) if q["role"] == "control" and a]
        result["drift"] = drift(model, control)
    with open(out, "w") as f:
        json.dump(result, f)


main()
