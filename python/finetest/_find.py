"""Finds the program that pip installed with this package."""

import os
import sys
import sysconfig


def find_finetest_bin():
    """Return the path of the finetest program that belongs to this package.

    Raises FileNotFoundError, which names the places, if there is none.
    """
    tried = []
    for path in _candidates():
        path = os.path.abspath(path)
        if path in tried:
            continue
        if os.path.isfile(path):
            return path
        tried.append(path)
    places = "".join("\n  " + path for path in tried)
    raise FileNotFoundError("the finetest program is missing; reinstall the package. Tried:" + places)


def _candidates():
    name = "finetest" + (sysconfig.get_config_var("EXE") or "")
    # Where pip says that it put the program: right for an environment, for --user and for --prefix.
    yield from _recorded(name)
    # `pip install --target DIR` moves the program to DIR/bin, and records the place from which it moved it.
    package = os.path.dirname(os.path.abspath(__file__))
    yield os.path.join(os.path.dirname(package), "bin", name)
    # The record can be missing, as in some distributions' packages.
    yield os.path.join(sysconfig.get_path("scripts"), name)
    user = _user_scripts()
    if user:
        yield os.path.join(user, name)
    yield os.path.join(os.path.dirname(sys.executable or ""), name)


def _recorded(name):
    from importlib import metadata

    try:
        distribution = metadata.distribution("finetest")
    except metadata.PackageNotFoundError:
        return
    # Another finetest can come first on sys.path; its program would be another version.
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for file in distribution.files or []:
        if file.name == name and os.path.realpath(str(distribution.locate_file(""))) == os.path.realpath(here):
            yield str(distribution.locate_file(file))


def _user_scripts():
    if sys.version_info >= (3, 10):
        scheme = sysconfig.get_preferred_scheme("user")
    elif os.name == "nt":
        scheme = "nt_user"
    elif sys.platform == "darwin" and getattr(sys, "_framework", None):
        scheme = "osx_framework_user"
    else:
        scheme = "posix_user"
    return sysconfig.get_path("scripts", scheme=scheme)
