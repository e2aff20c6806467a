"""`python -m finetest`: the program itself, with the same arguments and exit code."""

import os
import sys

from finetest import find_finetest_bin


def main():
    try:
        program = find_finetest_bin()
    except FileNotFoundError as error:
        print("error: {}".format(error), file=sys.stderr)
        return 1
    arguments = [program] + sys.argv[1:]
    if sys.platform != "win32":
        os.execv(program, arguments)
    # On Windows, exec would return to the shell before the program ends.
    import subprocess

    try:
        return subprocess.call(arguments)
    except KeyboardInterrupt:
        # The program got the same Ctrl-C and has reported it.
        return 130


if __name__ == "__main__":
    sys.exit(main())
