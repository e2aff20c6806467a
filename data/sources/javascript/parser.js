function parseLine(line) {
  const [key, value] = line.split("=");
  return { key: key.trim(), value: value.trim() };
}

function parse(text) {
  const entries = {};
  for (const line of text.split("\n")) {
    if (line === "" || line.startsWith("#")) {
      continue;
    }
    const entry = parseLine(line);
    entries[entry.key] = entry.value;
  }
  return entries;
}

console.log(parse("port = 80\n# note\nhost = local"));
