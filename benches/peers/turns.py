"""Programs that take turns, and what the rest of the machine did meanwhile.

A repetition of one program follows one of the other, so that both meet the same machine. Before each the machine is given time to
become quiet, and what processes of others used while it ran is noted: the page counts only quiet repetitions.
"""
import json
import os
import subprocess
import threading
import time

QUIET = 0.06
CORES = os.cpu_count() or 1
TICK = os.sysconf("SC_CLK_TCK")


def machine_cpu():
    """Seconds of CPU since boot: all of them, and those nothing ran in."""
    with open("/proc/stat") as f:
        values = [int(v) for v in f.readline().split()[1:9]]
    return sum(values) / TICK, (values[3] + values[4]) / TICK


def wait_until_quiet(patience):
    end = time.monotonic() + patience
    while True:
        total, idle = machine_cpu()
        time.sleep(0.4)
        total_then, idle_then = machine_cpu()
        if idle_then - idle >= (1 - QUIET) * (total_then - total) or time.monotonic() > end:
            return


class Failed(Exception):
    pass


class Turns:
    """A program that does a repetition for each line on stdin, and answers with a line of JSON."""

    def __init__(self, command, log, env=None):
        self.log = log
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=open(log, "ab"), text=True,
                                        env={**os.environ, **(env or {})})

    def say(self, line):
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # its end is told by what it did not answer

    def hear(self):
        for line in self.process.stdout:
            if line.startswith(("{", '"')):
                return json.loads(line)
        raise Failed(last_words(self.log, self.process.wait()))

    def once(self, limit=None):
        """A repetition, which may take `limit` seconds."""
        before = self.cpu()
        late = threading.Timer(limit, self.process.kill) if limit else None
        if late:
            late.start()
        self.say("")
        try:
            answer = self.hear()
        except Failed as error:
            killed = late is not None and late.finished.is_set()
            raise Failed(f"stopped after {limit:.0f} s of its first try") if killed else error
        finally:
            if late:
                late.cancel()
        if "error" in answer:
            raise Failed(answer["error"])
        return {**answer, "cpu": self.cpu() - before, "peak_mb": self.peak()}

    def cpu(self):
        with open(f"/proc/{self.process.pid}/stat") as f:
            fields = f.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def peak(self):
        """Most memory it held at once, mapped files included."""
        with open(f"/proc/{self.process.pid}/status") as f:
            return next(int(line.split()[1]) / 1024 for line in f if line.startswith("VmHWM:"))

    def close(self):
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Worker(Turns):
    """finetest's llama.cpp, spoken to as its backend does."""

    def __init__(self, finetest, log):
        # The backend sets the same: OpenMP's threads spin no longer than they compute.
        super().__init__([finetest], log, {"FINETEST_WORKER": "llama-cpp", "GOMP_SPINCOUNT": "5000"})
        self.hear()

    def open(self, model, rows):
        self.job({"Open": {"model": str(model), "arms": [None], "batch": rows, "threads": CORES, "log": "OFF"}})

    def job(self, job):
        self.say(json.dumps(job))
        replies = []
        while (reply := self.hear()) != "Done":
            if "Failed" in reply:
                raise Failed(reply["Failed"])
            replies.append(reply)
        return replies

    def timed(self, job, units):
        """What it replies, and a repetition."""
        before, started = self.cpu(), time.monotonic()
        replies = self.job(job)
        seconds = time.monotonic() - started
        return replies, {"units": units, "seconds": seconds, "cpu": self.cpu() - before, "peak_mb": self.peak()}

    def generate(self, prompts, tokens):
        """Answers of so many tokens at most."""
        items = [{"arm": 0, "prompt": prompt, "max_tokens": tokens} for prompt in prompts]
        replies, done = self.timed({"Generate": {"items": items, "stop": []}}, 0)
        answers = dict(reply["Generated"] for reply in replies if "Generated" in reply)
        result = [token for i in sorted(answers) for token in answers[i]["tokens"]]
        return {**done, "units": len(result), "result": result}


class LlamaCpp(Worker):
    """Answers to prompts."""

    def __init__(self, finetest, model, prompts, tokens, log):
        super().__init__(finetest, log)
        self.open(model, len(prompts))
        self.prompts, self.tokens = prompts, tokens

    def once(self):
        return self.generate(self.prompts, self.tokens)


class Whole:
    """Programs that are started anew for each repetition, one after another; `prepare` runs before and `result` after, uncounted."""

    def __init__(self, commands, log, units, good=(0,), prepare=lambda: None, result=lambda: None, env=None):
        self.commands, self.log, self.units, self.good = commands, log, units, good
        self.prepare, self.result, self.env = prepare, result, {**os.environ, **(env or {})}

    def once(self):
        self.prepare()
        cpu, peak, seconds = 0.0, 0.0, 0.0
        for command in self.commands:
            started = time.monotonic()
            with open(self.log, "ab") as log:
                process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env)
                _, status, used = os.wait4(process.pid, 0)
            seconds += time.monotonic() - started
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode not in self.good:
                raise Failed(last_words(self.log, process.returncode))
            cpu += used.ru_utime + used.ru_stime
            peak = max(peak, used.ru_maxrss / 1024)
        return {"units": self.units, "seconds": seconds, "cpu": cpu, "peak_mb": peak, "result": self.result()}

    def close(self):
        pass


def last_words(log, code):
    with open(log, errors="replace") as f:
        lines = [line.strip() for line in f if line.strip()]
    return f"ended with {code}: " + (lines[-1][:300] if lines else "it said nothing")


def repetition(side, patience, **limit):
    """One repetition of a side, and what share of the machine others used meanwhile."""
    wait_until_quiet(patience)
    (total, idle), started = machine_cpu(), time.monotonic()
    done = side.once(**limit)
    seconds = time.monotonic() - started
    total_then, idle_then = machine_cpu()
    busy = (total_then - total) - (idle_then - idle)
    done["others"] = max(0.0, (busy - done.pop("cpu")) / (CORES * seconds))
    done["rate"] = done["units"] / done["seconds"]
    return done


def counted(rounds):
    return [r for r in rounds if r["others"] < QUIET]


def alternatives(name, running):
    """The same program in another precision: named alike up to the last word ("PEFT f32", "PEFT bf16")."""
    program = name.rpartition(" ")[0]
    return [other for other in running if program and other != name and other.rpartition(" ")[0] == program]


def alternate(sides, repeats, tell, deadline, warm_up=True, patience=20):
    """Lets `sides`, {name: how it is started}, take turns until each has `repeats` quiet repetitions.

    Of alternatives one that is clearly slower in the first try is not asked again. Returns {name: {"rounds", "first", "missing", "tried"}}.
    """
    found, running = {name: {"rounds": []} for name in sides}, {}
    for name, start in sides.items():
        try:
            running[name] = start()
            if warm_up:
                # A processor without instructions for bf16 may take a hundred times as long.
                limit = min((30 + 3 * found[other]["first"]["seconds"] for other in alternatives(name, running)), default=None)
                found[name]["first"] = first = repetition(running[name], 0, **({"limit": limit} if limit else {}))
                tell(f"{name}: {first['rate']:.4g} in the first try")
        except (Failed, OSError) as error:
            stop(name, str(error), found, running, tell)
    for name in list(running) if warm_up else []:
        first = found[name]["first"]
        for other in (found[o]["first"] for o in alternatives(name, running)):
            # What a busy machine did to one of them alone is no reason.
            factor = 2 if max(first["others"], other["others"]) < QUIET else 8
            if first["rate"] * factor < other["rate"]:
                found[name]["tried"] = first["rate"]
                stop(name, f"{first['rate']:.3g} in one try, too slow to go on", found, running, tell)
                break
    end = time.monotonic() + deadline
    for _ in range(3 * repeats):
        wanting = [name for name in running if len(counted(found[name]["rounds"])) < repeats]
        if not wanting or (time.monotonic() > end and all(found[n]["rounds"] for n in running)):
            break
        for name in list(running):
            try:
                done = repetition(running[name], patience)
            except (Failed, OSError) as error:
                stop(name, str(error), found, running, tell)
                continue
            found[name].setdefault("first", done)
            found[name]["rounds"].append({k: done[k] for k in ("rate", "others", "peak_mb", "rates") if k in done})
            tell(f"{name}: {done['rate']:.4g} (others {100 * done['others']:.0f} %)")
    for side in running.values():
        side.close()
    return found


def stop(name, why, found, running, tell):
    found[name]["missing"] = why
    tell(f"{name}: {why}")
    if name in running:
        running.pop(name).close()
