#!/usr/bin/env python3
"""finetest's drift beside llama.cpp's `llama-perplexity --kl-divergence`, on the same weights in f32 and the same text.

    benches/peers/kl_divergence.py --finetest PROGRAM --llama-perplexity PROGRAM --model MODEL.gguf --adapter DIR [--scale 0.3]

llama.cpp looks at the second half of each chunk of 256 tokens, and so does this for finetest's values, which are there by position.
llama.cpp keeps base's logits in 16 bits, so the two agree to about one part in a thousand. Needs numpy and gguf (PyPI).
"""

import argparse
import json
import math
import pathlib
import re
import subprocess
import tempfile

import gguf
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TEXT = ROOT / "docs/explanation/statistics.md"
CHUNK = 256
BYTES = 9000


def widened(source, out):
    """The same GGUF file with every tensor in f32, so that llama.cpp rounds no activation."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(out, str(bytes(reader.fields["general.architecture"].parts[-1]), "utf-8"))
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        kind, string = field.types[0], gguf.GGUFValueType.STRING
        if kind == gguf.GGUFValueType.ARRAY:
            value = [str(bytes(field.parts[i]), "utf-8") if field.types[1] == string else field.parts[i][0].item() for i in field.data]
            writer.add_array(name, value)
        elif kind == string:
            writer.add_string(name, str(bytes(field.parts[-1]), "utf-8"))
        else:
            writer.add_key_value(name, field.parts[-1][0].item(), kind)
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        writer.add_tensor(tensor.name, values.reshape([int(size) for size in tensor.shape[::-1]]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def of_llama(program, folder):
    ask = lambda model, *more: subprocess.run(  # noqa: E731
        [program, "-m", model, "-f", "text.txt", "-c", str(CHUNK), "-b", str(CHUNK), "--kl-divergence-base", "base.kld", *more],
        cwd=folder, check=True, capture_output=True, text=True)
    ask("base.gguf")
    told = ask("tuned.gguf", "--kl-divergence")
    number = lambda name: float(re.search(rf"{name}\s*:\s*([0-9.]+)", told.stdout + told.stderr).group(1))  # noqa: E731
    chunks = int(re.search(r"over (\d+) chunks", told.stdout + told.stderr).group(1))
    return {name: number(f"{label}") for name, label in
            [("mean", "Mean    KLD"), ("most", "Maximum KLD"), ("median", "Median  KLD"), ("same", "Same top p")]}, chunks


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("finetest", "llama-perplexity", "model", "adapter"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--scale", type=float, default=0.3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "scenarios").mkdir()
        (folder / "text.txt").write_bytes(TEXT.read_bytes()[:BYTES].decode(errors="ignore").encode())
        (folder / "scenarios/one.toml").write_text(
            'role = "control"\ndescription = "one"\nmax_tokens = 1\n[[cases]]\ntext = "The sky is"\nchecks = ["coherent"]\n')
        model, adapter = (pathlib.Path(path).resolve() for path in (args.model, args.adapter))
        (folder / "finetest.toml").write_text(
            f'[model]\nsource = "{model}"\n[adapter]\npath = "{adapter}"\nscale = {args.scale}\n[run]\ndrift_text = "text.txt"\n')
        program = str(pathlib.Path(args.finetest).resolve())
        subprocess.run([program, "run", "-q", "--train", "never", "--format", "json", "-o", "run.json"], cwd=folder)
        subprocess.run([program, "export", "-q", "--format", "merged-gguf", "--dtype", "f32", "-o", "merged.gguf"], cwd=folder, check=True)
        widened(model, folder / "base.gguf")
        widened(folder / "merged.gguf", folder / "tuned.gguf")
        theirs, chunks = of_llama(str(pathlib.Path(args.llama_perplexity).resolve()), folder)
        texts = json.loads((folder / "run.json").read_text())["run"]["drift"]["tuned"]["texts"]
        parts = [text for text in texts if text["text"].startswith("text.txt")][:chunks]
        # The logits of position i predict token i + 1; llama.cpp takes positions from half a chunk on.
        values = sorted(value for part in parts for value in part["values"][CHUNK // 2:])
    ours = {"mean": sum(values) / len(values), "most": values[-1], "median": values[len(values) // 2]}
    print(f"{len(values)} positions, nats/token")
    for name, value in ours.items():
        print(f"{name:7} finetest {value:.6f}  llama.cpp {theirs[name]:.6f}  ratio {value / theirs[name]:.4f}")
    if not math.isclose(ours["mean"], theirs["mean"], rel_tol=0.005):
        raise SystemExit("they do not agree")


if __name__ == "__main__":
    main()
