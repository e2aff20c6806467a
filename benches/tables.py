"""Tables that scripts write into pages of the book."""


def put(page, script, table):
    """Puts a table where the page says that `script --write` puts it."""
    begin, end = f"<!-- table: {script} --write -->\n", "<!-- end -->"
    before, rest = page.read_text().split(begin)
    page.write_text(before + begin + table + end + rest.split(end, 1)[1])
