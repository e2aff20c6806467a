"""Runs the tools: what each says for machines is the label, what it says for people the text.

Every adapter answers, for one broken file in an empty folder, with the diagnostics whose
two forms could be matched beyond doubt. Anything else is left out.
"""

import glob
import json
import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as xml
from dataclasses import dataclass, field, replace
from pathlib import Path

from mutate import number

TIMEOUT = 600  # generous: on a busy machine nothing may be lost


@dataclass(frozen=True)
class Diagnostic:
    """One diagnostic as the tool itself takes it apart."""

    severity: str
    file: str
    line: int
    column: int | None
    code: str | None
    message: str
    key: str | None = None  # what kind of message it is, where the tool has a name for it


@dataclass(frozen=True)
class Sighting:
    """A diagnostic with the text in which a person sees it."""

    diagnostic: Diagnostic
    text: str
    form: str  # "line" or "block"
    command: list[str] = field(default_factory=list)
    needs_command: bool = False


class Unreadable(Exception):
    """The tool's output holds something the parser does not fully understand."""


def run(argv, folder, locale="C.UTF-8"):
    """Runs a tool in a folder; its two streams, as text without colours."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "LC_ALL": locale,
        "GOFLAGS": "-mod=mod",
        "GO111MODULE": "off",
        "NO_COLOR": "1",
    }
    done = subprocess.run(
        argv, cwd=folder, env=environment, capture_output=True, timeout=TIMEOUT, stdin=subprocess.DEVNULL
    )
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", stream.decode("utf-8")) for stream in (done.stdout, done.stderr)]
    return plain[0], plain[1]


def only_line(output, wanted):
    """The wanted line, if the output has it exactly once."""
    return wanted if output.splitlines().count(wanted) == 1 else None


def blocks(output, header, end):
    """The output cut up: each block from a line matching `header` to the next one or to `end`."""
    current, found = None, []
    for line in output.splitlines():
        if re.match(header, line):
            current = [line]
            found.append(current)
        elif re.match(end, line):
            current = None
        elif current is not None:
            current.append(line)
    return ["\n".join(lines).rstrip() for lines in found]


def only_block(found, first_line):
    """The one block that starts with the line, if there is exactly one."""
    wanted = [block for block in found if block.split("\n", 1)[0] == first_line]
    return wanted[0] if len(wanted) == 1 else None


class Tool:
    name = ""
    language = ""
    programs: tuple[str, ...] = ()
    version_command: tuple[str, ...] = ()
    version_pattern = r"(\d+\.[\d.]*\d)"
    labelled_by = ""
    limit = 160  # mutants to try
    target = 36  # records to keep
    blocks_share = 0.2  # of them, over several lines
    config: dict[str, str] = {}
    batch = 1  # files to look at in one run; with more than one, sightings() gets a list
    rules = r"(?!clippy-)"  # which rules of mutations.toml are worth trying

    def missing(self):
        return [program for program in self.programs if not shutil.which(program)]

    def version(self):
        out, err = run(list(self.version_command), ".")
        return re.search(self.version_pattern, out + err)[1]

    def prepare(self, folder):
        for name, text in self.config.items():
            (Path(folder) / name).write_text(text)

    def sightings(self, folder, path):
        raise NotImplementedError


# Compilers with labels of their own


class Rustc(Tool):
    name, language = "rustc", "rust"
    programs = ("rustc",)
    version_command = ("rustc", "--version")
    labelled_by = "--error-format=json"
    limit, target, blocks_share = 150, 72, 0.3
    program = "rustc"

    def wanted(self, code):
        return not code.startswith("clippy::")

    def sightings(self, folder, path):
        base = [self.program, "--crate-type", "lib"]
        short = [*base, "--error-format", "short", path]
        full = [*base, path]
        machine = run([*base, "--error-format=json", path], folder)[1]
        lines, rendered = run(short, folder)[1], run(full, folder)[1]
        for entry in map(json.loads, machine.splitlines()):
            primary = [span for span in entry.get("spans", []) if span["is_primary"]]
            code = (entry.get("code") or {}).get("code") or ""
            if len(primary) != 1 or "\n" in entry["message"] or not self.wanted(code):
                continue
            yield from self.both(entry, primary[0], code, lines, rendered, short, full)

    def both(self, entry, span, code, lines, rendered, short, full):
        place = span["file_name"], span["line_start"], span["column_start"]
        shown = code if re.fullmatch(r"E\d{4}", code) else None
        key = code or None
        message = entry["message"] + (f": {span['label']}" if span["label"] else "")
        level = entry["level"] + (f"[{shown}]" if shown else "")
        line = only_line(lines, "{}:{}:{}: ".format(*place) + f"{level}: {message}")
        if line:
            found = Diagnostic(entry["level"], *place, shown, message, key)
            yield Sighting(found, line, "line", short, shown is None)
        block = entry["rendered"].rstrip()
        if rendered.count(block + "\n") == 1:
            shown = code if code and code in block else None
            found = Diagnostic(entry["level"], *place, shown, entry["message"], key)
            yield Sighting(found, block, "block", full, shown is None)


class Clippy(Rustc):
    name = "clippy"
    programs = ("clippy-driver",)
    version_command = ("clippy-driver", "--version")
    program = "clippy-driver"
    limit, target, blocks_share = 110, 44, 0.3
    rules = "clippy-"

    def wanted(self, code):
        return code.startswith("clippy::")


class CompilerOfC(Tool):
    """What gcc and clang have in common."""

    language = "c"
    no_carets: tuple[str, ...] = ()
    locales = ("C.UTF-8",)

    def diagnostics(self, command, folder, path, locale):
        raise NotImplementedError

    def sightings(self, folder, path):
        locale = self.locales[number("locale", self.name, path) % len(self.locales)]
        flags = [["-Wall"], ["-Wall", "-Wextra"], ["-Wall"], ["-Wall", "-Werror"]][number("flags", self.name, path) % 4]
        base = [self.name, *flags, "-c"]
        found = list(self.diagnostics(base, folder, path, locale))
        no_caret = self.no_carets[number("caret", path) % len(self.no_carets)]
        short, full = [*base, no_caret, path], [*base, path]
        lines = run(short, folder, locale)[1]
        cut = blocks(run(full, folder, locale)[1], r"\S+:\d+:\d+: ", r"\S+: (In|At) |\d+ .* generated|\S+ terminated|In file|cc1: ")
        for diagnostic in found:
            place = f"{diagnostic.file}:{diagnostic.line}:{diagnostic.column}: {diagnostic.severity}: "
            for mark in self.marks(diagnostic):
                wanted = place + diagnostic.message + mark
                line, block = only_line(lines, wanted), only_block(cut, wanted)
                if line or block:
                    break
            if line:
                yield self.with_function(Sighting(diagnostic, line, "line", short, True), lines)
            if block and "\n" in block:
                yield Sighting(diagnostic, block, "block", full, True)

    def marks(self, diagnostic):
        """What may stand after the message, for the option that asked for it."""
        return [f" [{diagnostic.code}]"] if diagnostic.code else [""]

    def with_function(self, sighting, output):
        return sighting


class Gcc(CompilerOfC):
    name = "gcc"
    programs = ("gcc",)
    version_command = ("gcc", "--version")
    version_pattern = r"(\d+\.\d+\.\d+)"
    labelled_by = "-fdiagnostics-format=json"
    no_carets = ("-fno-diagnostics-show-caret", "-fdiagnostics-plain-output")
    locales = ("C", "C.UTF-8")
    limit, target, blocks_share = 180, 56, 0.25

    def diagnostics(self, command, folder, path, locale):
        report = run([*command, "-fdiagnostics-format=json", path], folder, locale)[1]
        for entry in json.loads(report.splitlines()[0]) if report.startswith("[") else []:
            for one in [entry, *entry.get("children", [])]:
                if len(one["locations"]) != 1 or "\n" in one["message"]:
                    continue
                caret = one["locations"][0]["caret"]
                place = caret["file"], caret["line"], caret["column"]
                code = one.get("option")
                key = code and code.replace("-Werror=", "-W")
                yield Diagnostic(one["kind"], *place, code, one["message"], key)

    def with_function(self, sighting, output):
        """Now and then the line that names the function, which only gcc prints."""
        lines = output.splitlines()
        above = lines[max(lines.index(sighting.text) - 1, 0)]
        if not re.fullmatch(r"\S+: In function .\w+.:", above) or number("function", sighting.text) % 2:
            return sighting
        return replace(sighting, text=f"{above}\n{sighting.text}", form="line", command=[], needs_command=False)


class Clang(CompilerOfC):
    name = "clang"
    programs = ("clang",)
    version_command = ("clang", "--version")
    labelled_by = "--serialize-diagnostics, read by llvm-bcanalyzer"
    no_carets = ("-fno-caret-diagnostics",)
    limit, target, blocks_share = 180, 56, 0.25
    levels = {1: "note", 2: "warning", 3: "error", 4: "fatal error"}

    def marks(self, diagnostic):
        code = diagnostic.code
        return [f" [{code}]", f" [-Werror,{code}]"] if code else [""]

    def analyzer(self):
        found = shutil.which("llvm-bcanalyzer") or next(iter(sorted(glob.glob("/usr/lib/llvm-*/bin/llvm-bcanalyzer"))), None)
        return found

    def missing(self):
        return super().missing() + ([] if self.analyzer() else ["llvm-bcanalyzer"])

    def diagnostics(self, command, folder, path, locale):
        run([*command, "--serialize-diagnostics", "out.dia", path], folder, locale)
        dump = run([self.analyzer(), "--dump", "out.dia"], folder)[0]
        files, flags = {}, {}
        for line in dump.splitlines():
            record = re.fullmatch(r"\s*<(FileName|DiagFlag|DiagInfo) abbrevid=\d+ (.*)/> blob data = '(.*)'", line)
            if not record:
                continue
            numbers = [int(value) for value in re.findall(r"op\d+=(\d+)", record[2])]
            if record[1] == "FileName":
                files[numbers[0]] = record[3]
            elif record[1] == "DiagFlag":
                flags[numbers[0]] = record[3]
            elif numbers[1] in files and numbers[0] in self.levels:
                yield self.diagnostic(numbers, record[3], files, flags)

    def diagnostic(self, numbers, message, files, flags):
        level, file, line, column, flag = *numbers[:4], numbers[6]
        code = f"-W{flags[flag]}" if flag in flags else None
        return Diagnostic(self.levels[level], files[file], line, column, code, message, code)


class Javac(Tool):
    name, language = "javac", "java"
    programs = ("javac",)
    version_command = ("javac", "-version")
    labelled_by = "-XDrawDiagnostics, paired in order with the text"
    limit, target, blocks_share = 70, 40, 1.0

    def sightings(self, folder, path):
        command = ["javac", "-Xlint", path]
        raw = run(["javac", "-Xlint", "-XDrawDiagnostics", path], folder)[1]
        keys = re.findall(r"^[\w.]+:(\d+):\d+: compiler\.(err|warn)\.([\w.]+)", raw, re.MULTILINE)
        cut = blocks(run(command, folder)[1], re.escape(path) + r":\d+: ", r"\d+ (error|warning)s?$|Note: ")
        if len(keys) != len(cut):
            return
        for (line, level, key), block in zip(keys, cut):
            severity = {"err": "error", "warn": "warning"}[level]
            head = re.match(rf"{re.escape(path)}:{line}: {severity}: (?:\[(\w+)\] )?(\S.*)", block)
            if head:
                found = Diagnostic(severity, path, int(line), None, head[1], head[2], key)
                yield Sighting(found, block, "block", command)


class TypeScript(Tool):
    name, language = "tsc", "typescript"
    programs = ("tsc", "node")
    version_command = ("tsc", "--version")
    labelled_by = "the compiler's own API (getPreEmitDiagnostics)"
    limit, target, blocks_share = 150, 40, 0.2
    batch = 25
    config = {
        "tsconfig.json": json.dumps(
            {
                "compilerOptions": {
                    "strict": True, "noEmit": True, "noUnusedLocals": True, "allowUnreachableCode": False,
                    "target": "es2022", "types": [], "moduleDetection": "force",
                }
            }
        )
    }
    script = """
        const ts = require(process.argv[1]);
        const read = ts.readConfigFile("tsconfig.json", ts.sys.readFile).config;
        const options = ts.parseJsonConfigFileContent(read, ts.sys, ".").options;
        const all = ts.getPreEmitDiagnostics(ts.createProgram(process.argv.slice(2), options));
        console.log(JSON.stringify(all.filter((d) => d.file).map((d) => {
          const at = d.file.getLineAndCharacterOfPosition(d.start);
          const text = typeof d.messageText === "string" ? d.messageText : d.messageText.messageText;
          return [ts.DiagnosticCategory[d.category].toLowerCase(), d.file.fileName, at.line + 1,
            at.character + 1, "TS" + d.code, text];
        })));
    """

    def sightings(self, folder, paths):
        library = Path(os.path.realpath(shutil.which("tsc"))).parent.parent / "lib" / "typescript.js"
        report = run(["node", "-e", self.script, str(library), *paths], folder)[0]
        found = [Diagnostic(*entry, entry[4]) for entry in json.loads(report)]
        yield from self.matched(found, folder, ["tsc"], "{0.file}({0.line},{0.column}): ")
        yield from self.matched(found, folder, ["tsc", "--pretty"], "{0.file}:{0.line}:{0.column} - ")

    def matched(self, found, folder, command, place):
        output = run(command, folder)[0]
        cut = blocks(output, r"\S+(\(\d|:\d+:\d+ - )", r"Found \d+ error|Errors +Files")
        for one in found:
            block = only_block(cut, place.format(one) + f"{one.severity} {one.code}: {one.message}")
            if block:
                yield Sighting(one, block, "block" if "\n" in block else "line", command)


# Linters with labels of their own


class Ruff(Tool):
    name, language = "ruff", "python"
    programs = ("ruff",)
    version_command = ("ruff", "--version")
    labelled_by = "--output-format json"
    limit, target, blocks_share = 200, 44, 0.15
    config = {
        "ruff.toml": '[lint]\nselect = ["E", "F", "W", "B", "UP", "SIM", "PLE", "PLW", "PLR", "C4", "RET", "ARG", "A", "N", "S307", "ERA", "RUF"]\n'
    }

    def sightings(self, folder, path):
        report = json.loads(run(["ruff", "check", "--no-cache", "--output-format", "json", path], folder)[0])
        short, full = ["ruff", "check", "--output-format", "concise", path], ["ruff", "check", path]
        lines = run(short, folder)[0]
        cut = blocks(run(full, folder)[0], r"([A-Z]+\d+|invalid-syntax:) ", r"Found \d+ error|\[\*\] |No fixes|warning:")
        for entry in report:
            at = entry["location"]
            code = entry["code"]
            found = Diagnostic(entry["severity"], path, at["row"], at["column"], code, entry["message"], code)
            if Path(entry["filename"]).as_posix().endswith(path) and "\n" not in found.message:
                yield from self.both(found, lines, cut, short, full)

    def both(self, found, lines, cut, short, full):
        for mark in ("", "[*] ") if found.code != "invalid-syntax" else ("",):
            joint = ": " if found.code == "invalid-syntax" else " "
            said = f"{found.code}{joint}{mark}{found.message}"
            line = only_line(lines, f"{found.file}:{found.line}:{found.column}: {said}")
            block = only_block(cut, said)
            if line:
                yield Sighting(found, line, "line", short)
            if block and f" --> {found.file}:{found.line}:{found.column}\n" in block:
                yield Sighting(found, block, "block", full)


class Pylint(Tool):
    name, language = "pylint", "python"
    programs = ("pylint",)
    version_command = ("pylint", "--version")
    labelled_by = "the json reporter, in the same run"
    limit, target, blocks_share = 150, 40, 0.0
    batch = 12
    config = {
        ".pylintrc": "[MAIN]\noutput-format=json:pylint.json,text\npersistent=no\n"
        "[MESSAGES CONTROL]\ndisable=duplicate-code,missing-module-docstring,missing-function-docstring,missing-class-docstring\n"
    }

    def sightings(self, folder, paths):
        lines = run(["pylint", *paths], folder)[0]
        for entry in json.loads((Path(folder) / "pylint.json").read_text()):
            code, symbol, message = entry["message-id"], entry["symbol"], entry["message"]
            found = Diagnostic(entry["type"], entry["path"], entry["line"], entry["column"], code, message, code)
            line = only_line(lines, f"{found.file}:{found.line}:{found.column}: {code}: {message} ({symbol})")
            if line:
                yield Sighting(found, line, "line")


class Mypy(Tool):
    name, language = "mypy", "python"
    programs = ("mypy",)
    version_command = ("mypy", "--version")
    labelled_by = "--output json"
    limit, target, blocks_share = 160, 40, 0.0
    batch = 12
    # No broken syntax: mypy would say nothing else about the files beside it.
    rules = (
        "drop-import|rename|unknown|wrong|drop-return|extra-arg|redefine|bad-(type|op|key|override|iter)|missing-arg"
        "|keyword-arg|index|optional|need|not-callable|import-missing|abstract|reveal|unused-ignore|list-item"
        "|func-no|too-many-values|with-not|bool-op|no-member|raise-not|compare-literal"
    )
    config = {"mypy.ini": "[mypy]\nwarn_unreachable = True\ncheck_untyped_defs = True\nwarn_redundant_casts = True\nstrict_equality = True\n"}

    def sightings(self, folder, paths):
        with_columns = number("columns", *paths) % 2 == 0
        command = ["mypy", *(["--show-column-numbers"] if with_columns else [])]
        report = run(["mypy", "--output", "json", *paths], folder)[0]
        lines = run([*command, *paths], folder)[0]
        for entry in map(json.loads, filter(lambda line: line.startswith("{"), report.splitlines())):
            column = entry["column"] + 1 if with_columns else None
            found = Diagnostic(entry["severity"], entry["file"], entry["line"], column, entry["code"], entry["message"], entry["code"])
            place = f"{found.file}:{found.line}:" + (f"{column}:" if with_columns else "")
            shown = f"{place} {found.severity}: {found.message}"
            coded, bare = only_line(lines, f"{shown}  [{found.code}]"), only_line(lines, shown)
            if coded and found.code:
                yield Sighting(found, coded, "line")
            elif bare:
                yield Sighting(replace(found, code=None), bare, "line")


class Jshint(Tool):
    name, language = "jshint", "javascript"
    programs = ("jshint",)
    version_command = ("jshint", "--version")
    labelled_by = "--reporter=checkstyle"
    limit, target, blocks_share = 120, 40, 0.0
    config = {
        ".jshintrc": json.dumps(
            {"esversion": 11, "undef": True, "unused": True, "eqeqeq": True, "node": True, "latedef": True, "forin": True, "shadow": False}
        )
    }

    def sightings(self, folder, path):
        command = ["jshint", "--verbose", path]
        report = xml.fromstring(run(["jshint", "--reporter=checkstyle", path], folder)[0].strip())
        lines = run(command, folder)[0]
        for entry in report.iter("error"):
            code = entry.get("source").removeprefix("jshint.")
            place = int(entry.get("line")), int(entry.get("column"))
            found = Diagnostic(entry.get("severity"), path, *place, code, entry.get("message"), code)
            line = only_line(lines, f"{path}: line {found.line}, col {found.column}, {found.message} ({code})")
            if line:
                yield Sighting(found, line, "line", command)


class Oxlint(Tool):
    name, language = "oxlint", "javascript"
    programs = ("oxlint",)
    version_command = ("oxlint", "--version")
    labelled_by = "-f json"
    limit, target, blocks_share = 190, 40, 0.2
    config = {".oxlintrc.json": json.dumps({"categories": {"correctness": "error", "suspicious": "warn", "restriction": "off"}, "plugins": ["unicorn", "oxc"]})}

    def sightings(self, folder, path):
        short, full = ["oxlint", "-f", "unix", path], ["oxlint", path]
        report = json.loads(run(["oxlint", "-f", "json", path], folder)[0])
        lines = run(short, folder)[0]
        cut = blocks(run(full, folder)[0], r"  [x!] ", r"Found \d+ |Finished in ")
        for entry in report["diagnostics"]:
            code, labels = entry.get("code"), entry["labels"]
            if not code or not labels or "\n" in entry["message"]:
                continue
            span = labels[0]["span"]
            found = Diagnostic(entry["severity"], entry["filename"], span["line"], span["column"], code, entry["message"], code)
            place = f"{found.file}:{found.line}:{found.column}"
            line = only_line(lines, f"{place}: {found.message} [{found.severity.capitalize()}/{code}]")
            sign = {"error": "x", "warning": "!"}[found.severity]
            block = only_block(cut, f"  {sign} {code}: {found.message}")
            if line:
                yield Sighting(found, line, "line", short)
            if block and f",-[{place}]" in block:
                yield Sighting(found, block, "block", full)


class Shellcheck(Tool):
    name, language = "shellcheck", "shell"
    programs = ("shellcheck",)
    version_command = ("shellcheck", "--version")
    labelled_by = "-f json1"
    limit, target, blocks_share = 150, 44, 0.25

    def sightings(self, folder, path):
        short, full = ["shellcheck", "-f", "gcc", path], ["shellcheck", "-W0", path]
        comments = json.loads(run(["shellcheck", "-f", "json1", path], folder)[0])["comments"]
        lines, tty = run(short, folder)[0], run(full, folder)[0].strip("\n")
        for entry in comments:
            code, level = f"SC{entry['code']}", entry["level"]
            shown = level if level in ("error", "warning") else "note"
            found = Diagnostic(shown, entry["file"], entry["line"], entry["column"], code, entry["message"], code)
            line = only_line(lines, f"{path}:{found.line}:{found.column}: {shown}: {found.message} [{code}]")
            if line:
                yield Sighting(found, line, "line", short)
            head, tail = f"In {path} line {found.line}:\n", f"{code} ({level}): {found.message}"
            if len(comments) == 1 and tty.startswith(head) and tty.split("\n")[-1].endswith(tail):
                yield Sighting(replace(found, severity=level, column=None), tty, "block", full)


class Yamllint(Tool):
    name, language = "yamllint", "yaml"
    programs = ("yamllint",)
    version_command = ("yamllint", "--version")
    labelled_by = "-f parsable"
    limit, target, blocks_share = 130, 36, 0.2

    def sightings(self, folder, path):
        short, full = ["yamllint", "-f", "parsable", path], ["yamllint", path]
        lines, standard = run(short, folder)[0].splitlines(), run(full, folder)[0].rstrip()
        for line in lines:
            parsed = re.fullmatch(r"(\S+):(\d+):(\d+): \[(error|warning)\] (.*) \(([\w-]+)\)", line)
            if not parsed:
                raise Unreadable(line)
            file, row, column, severity, message, rule = parsed.groups()
            found = Diagnostic(severity, file, int(row), int(column), rule, message, self.key(rule, message))
            if lines.count(line) == 1:
                yield Sighting(found, line, "line", short)
            shown = rf"{re.escape(file)}\n +{row}:{column} +{severity} +{re.escape(message)}  \({rule}\)"
            if len(lines) == 1 and re.fullmatch(shown, standard):
                yield Sighting(found, standard, "block", full)

    def key(self, rule, message):
        return None if rule == "syntax" else rule


# Tools whose labels come from their interpreter


class Python(Tool):
    name, language = "python", "python"
    programs = ("python3",)
    version_command = ("python3", "--version")
    labelled_by = "compile() in the same interpreter: the exception's or the warning's own fields"
    limit, target, blocks_share = 220, 44, 1.0
    script = """
import json, pathlib, sys, warnings
path = sys.argv[1]
found = []
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    try:
        compile(pathlib.Path(path).read_text("utf-8"), path, "exec")
    except SyntaxError as error:
        found.append(["error", error.filename, error.lineno, type(error).__name__, error.msg])
found += [["warning", w.filename, w.lineno, w.category.__name__, str(w.message)] for w in caught]
print(json.dumps(found))
"""

    def sightings(self, folder, path):
        found = json.loads(run(["python3", "-c", self.script, path], folder)[0])
        command = ["python3", "-m", "py_compile", path]
        output = run(command, folder)[1].rstrip()
        if len(found) != 1:
            return
        severity, file, line, name, message = found[0]
        lines = output.split("\n")
        if severity == "error":
            whole = lines[0] == f'  File "{path}", line {line}' and lines[-1] == f"{name}: {message}"
        else:
            whole = lines[0] == f"{path}:{line}: {name}: {message}"
        if whole and len(lines) <= 4:
            yield Sighting(Diagnostic(severity, file, line, None, name, message), output, "block", command)


class Node(Tool):
    name, language = "node", "javascript"
    programs = ("node",)
    version_command = ("node", "--version")
    labelled_by = "the caught error's own name, message and stack"
    limit, target, blocks_share = 200, 44, 1.0
    load = """require("vm").runInThisContext(require("fs").readFileSync(process.argv[1], "utf8"), {filename: process.argv[1]})"""

    def sightings(self, folder, path):
        base = ["timeout", "5", "node", "--stack-trace-limit=1", "-e"]
        catch = "console.log = () => {}; try { %s } catch (e) { process.stdout.write(JSON.stringify([e.name, e.message, e.stack])) }"
        report = run([*base, catch % self.load, path], folder)[0]
        output = run([*base, self.load, path], folder)[1].strip()
        if not report or not output:
            return
        name, message, stack = json.loads(report)
        lines = output.split("\n")
        head = re.fullmatch(re.escape(path) + r":(\d+)", lines[0])
        frame = re.search(re.escape(path) + r":(\d+):(\d+)\)?$", output, re.MULTILINE)
        if not head or "\n" in message or f"{name}: {message}" not in lines or f"{name}: {message}" not in stack:
            return
        column = int(frame[2]) if frame and frame[1] == head[1] else None
        if frame is None or column is not None:
            yield Sighting(Diagnostic("error", path, int(head[1]), column, name, message), output, "block")


# Tools with one form only: strict parsers


class Bash(Tool):
    name, language = "bash", "shell"
    programs = ("bash",)
    version_command = ("bash", "--version")
    labelled_by = "a strict parser"
    limit, target, blocks_share = 170, 28, 0.6

    def sightings(self, folder, path):
        command = ["bash", "-n", path]
        lines = run(command, folder)[1].splitlines()
        parsed = [re.fullmatch(rf"{re.escape(path)}: line (\d+): (warning: )?(\S.*)", line) for line in lines]
        if not lines or not all(parsed) or len({(m[1], m[3]) for m in parsed}) != len(lines):
            raise Unreadable(lines)
        for index, match in enumerate(parsed):
            if match[3].startswith("`"):
                continue
            echo = parsed[index + 1] if index + 1 < len(lines) else None
            text = "\n".join(lines[index : index + 2]) if echo and echo[3].startswith("`") else lines[index]
            severity = "warning" if match[2] else "error"
            found = Diagnostic(severity, path, int(match[1]), None, None, match[3])
            yield Sighting(found, text, "block" if "\n" in text else "line", command)


class Perl(Tool):
    name, language = "perl", "perl"
    programs = ("perl",)
    version_command = ("perl", "-v")
    version_pattern = r"\(v([\d.]+)\)"
    labelled_by = "a strict parser; a warning is what -X silences"
    limit, target, blocks_share = 190, 44, 0.0
    summary = r".* (had compilation errors|had too many errors|syntax OK)\.?|BEGIN (failed|not safe).*|Execution of .*"

    def sightings(self, folder, path):
        command = ["perl", "-c", path]
        lines = run(command, folder)[1].splitlines()
        silenced = run(["perl", "-X", "-c", path], folder)[1].splitlines()
        for line in lines:
            if re.fullmatch(self.summary, line):
                continue
            parsed = re.fullmatch(rf"(\S.*) at {re.escape(path)} line (\d+)(\.|, near \"[^\"]*\"|, at EOF|, at end of line)", line)
            if not parsed:
                raise Unreadable(line)
            severity = "error" if line in silenced else "warning"
            if lines.count(line) == 1:
                found = Diagnostic(severity, path, int(parsed[2]), None, None, parsed[1])
                yield Sighting(found, line, "line", command)


class Luac(Tool):
    name, language = "luac", "lua"
    programs = ("luac",)
    version_command = ("luac", "-v")
    labelled_by = "a strict parser"
    limit, target, blocks_share = 150, 38, 0.0

    def sightings(self, folder, path):
        command = ["luac", "-p", path]
        lines = run(command, folder)[1].splitlines()
        parsed = re.fullmatch(rf"luac: {re.escape(path)}:(\d+): (\S.*)", lines[0]) if len(lines) == 1 else None
        if not parsed:
            raise Unreadable(lines)
        found = Diagnostic("error", path, int(parsed[1]), None, None, parsed[2])
        yield Sighting(found, lines[0], "line", command)


class Ruby(Tool):
    name, language = "ruby", "ruby"
    programs = ("ruby",)
    version_command = ("ruby", "--version")
    labelled_by = "a strict parser"
    limit, target, blocks_share = 190, 40, 0.35

    def sightings(self, folder, path):
        command = ["ruby", "-wc", path]
        out, err = run(command, folder)
        for block in self.cut(err, path):
            head = re.fullmatch(rf"{re.escape(path)}:(\d+): (warning: )?(\S.*)", block[0])
            severity = "warning" if head[2] else "error"
            found = Diagnostic(severity, path, int(head[1]), None, None, head[3])
            yield Sighting(found, "\n".join(block), "block" if len(block) > 1 else "line", command)

    def cut(self, output, path):
        """Header lines, each with the source line and the mark below it where there are some."""
        found = []
        for line in output.rstrip().split("\n"):
            if re.match(re.escape(path) + r":\d+: ", line):
                found.append([line])
            elif found and len(found[-1]) < 3 and (len(found[-1]) == 1 or re.fullmatch(r"\s*[~^]+\s*", line)):
                found[-1].append(line)
            elif line and not re.fullmatch(r"\S+: compile error \(SyntaxError\)", line):
                raise Unreadable(line)
        if any(len(block) == 2 for block in found):
            raise Unreadable(output)
        return found


class Php(Tool):
    name, language = "php", "php"
    programs = ("php",)
    version_command = ("php", "--version")
    labelled_by = "a strict parser"
    limit, target, blocks_share = 190, 44, 0.0

    def sightings(self, folder, path):
        command = ["php", "-l", path]
        out, err = run(command, folder)
        for line in (out + err).splitlines():
            if re.fullmatch(rf"(Errors parsing|No syntax errors detected in) {re.escape(path)}|", line):
                continue
            parsed = re.fullmatch(rf"PHP ([A-Z][a-z ]+):  (\S.*) in {re.escape(path)} on line (\d+)", line)
            if not parsed:
                raise Unreadable(line)
            found = Diagnostic(parsed[1].lower(), path, int(parsed[3]), None, None, parsed[2])
            yield Sighting(found, line, "line", command)


class Gfortran(Tool):
    name, language = "gfortran", "fortran"
    programs = ("gfortran",)
    version_command = ("gfortran", "--version")
    version_pattern = r"(\d+\.\d+\.\d+)"
    labelled_by = "a strict parser, confirmed by -fdiagnostics-format=json"
    limit, target, blocks_share = 133, 36, 0.5

    def sightings(self, folder, path):
        locale = ("C", "C.UTF-8")[number("locale", path) % 2]
        base = ["gfortran", "-Wall", "-c"]
        short, full = [*base, "-fno-diagnostics-show-caret", path], [*base, path]
        known = run([*base, "-fdiagnostics-format=json", path], folder, locale)[1]
        lines = run(short, folder, locale)[1]
        output = run(full, folder, locale)[1]
        for parsed in re.finditer(r"^(\S+):(\d+):(\d+): ([A-Z][a-z ]+): (\S.*)$", lines, re.MULTILINE):
            found = self.confirm(parsed, known)
            if found:
                yield Sighting(found, parsed[0], "line", short)
        shape = r"^(\S+):(\d+):(\d+):\n\n +\d+ \|.*\n +\|.*\n([A-Z][a-z ]+): (\S.*)$"
        for parsed in re.finditer(shape, output, re.MULTILINE):
            found = self.confirm(parsed, known)
            if found:
                yield Sighting(found, parsed[0], "block", full)

    def confirm(self, parsed, known):
        file, line, column, severity, message = parsed.groups()
        option = re.search(r" \[(-W[\w=-]+)\]$", message)
        message = message[: option.start()] if option else message
        place = f'"line": {line}, "file": {json.dumps(file)}, "column": {column}'
        if place not in known or json.dumps(message, ensure_ascii=False) not in known:
            return None
        code = option[1] if option else None
        return Diagnostic(severity.lower(), file, int(line), int(column), code, message, code)


class Go(Tool):
    name, language = "go", "go"
    programs = ("go",)
    version_command = ("go", "version")
    version_pattern = r"go(\d+\.[\d.]+)"
    labelled_by = "a strict parser; for the analyzers of go vet its -json"
    limit, target, blocks_share = 140, 44, 0.0

    def sightings(self, folder, path):
        checked = self.analyzers(folder, path)
        command = ["go", "vet" if checked else "build", path]
        out, err = run(command, folder)
        lines = err.splitlines()
        if not lines or lines[0] != "# command-line-arguments":
            raise Unreadable(err)
        for line in lines[1:]:
            parsed = re.fullmatch(rf"{re.escape(path)}:(\d+):(\d+): (\S.*)", line)
            if not parsed and not re.fullmatch(r"\t.*|too many errors", line):
                raise Unreadable(line)
            if parsed and not (checked and (parsed[1], parsed[2], parsed[3]) not in checked):
                key = checked.get(parsed.groups()) if checked else None
                found = Diagnostic("error", path, int(parsed[1]), int(parsed[2]), None, parsed[3], key)
                text = line if number("package", line) % 3 else f"{lines[0]}\n{line}"
                yield Sighting(found, text, "line", command, bool(checked))

    def analyzers(self, folder, path):
        """What go vet reports, by place and message, with the analyzer's name."""
        err = run(["go", "vet", "-json", path], folder)[1]
        body = err[err.find("{") :] if "\n{" in err else "{}"
        found = {}
        for reports in json.loads(body).values():
            for analyzer, entries in reports.items():
                for entry in entries if isinstance(entries, list) else []:
                    line, column = entry["posn"].rsplit(":", 2)[1:]
                    found[(line, column, entry["message"])] = f"vet {analyzer}"
        return found


class Nasm(Tool):
    name, language = "nasm", "asm"
    programs = ("nasm",)
    version_command = ("nasm", "--version")
    version_pattern = r"version ([\d.]+)"
    labelled_by = "a strict parser"
    limit, target, blocks_share = 150, 36, 0.0

    def sightings(self, folder, path):
        command = ["nasm", "-f", "elf64", path]
        lines = run(command, folder)[1].splitlines()
        for line in lines:
            parsed = re.fullmatch(rf"{re.escape(path)}:(\d+): (error|warning|fatal): (\S.*?)(?: \[-w\+([\w-]+)\])?", line)
            if not parsed:
                raise Unreadable(line)
            code = f"-w+{parsed[4]}" if parsed[4] else None
            if lines.count(line) == 1:
                found = Diagnostic(parsed[2], path, int(parsed[1]), None, code, parsed[3], code)
                yield Sighting(found, line, "line", command)


TOOLS = [
    tool()
    for tool in (
        Rustc, Clippy, Gcc, Clang, Javac, TypeScript, Python, Ruff, Pylint, Mypy, Node, Jshint, Oxlint,
        Shellcheck, Bash, Perl, Luac, Ruby, Php, Gfortran, Go, Yamllint, Nasm,
    )
]
