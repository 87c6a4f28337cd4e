"""Parses every Python file of ours, imports every module of the SDK, and evaluates each annotation in it.

Prints what failed, one a line. Runs in any interpreter of the oldest version that the SDK promises: where grpcio is not
installed, names of it stand for themselves.
"""

import importlib
import inspect
import pkgutil
import sys
import types
import typing
from pathlib import Path


class _Member(type):
    """A class whose members, such as those of an enumeration, are their own names."""

    def __getattr__(cls, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return name


class _StandIn(types.ModuleType):
    """A module in which each public name is a class, so that it can be a base and an annotation."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        made = _Member(name, (Exception,) if name.endswith("Error") else (), {})
        setattr(self, name, made)
        return made


def parse(folders):
    for folder in folders:
        for path in sorted(Path(folder).rglob("*.py")):
            try:
                compile(path.read_text("utf-8"), str(path), "exec")
            except SyntaxError as error:
                yield f"{path}: line {error.lineno}: {error.msg}"


def import_sdk():
    package = importlib.import_module("pitwarden")
    for found in pkgutil.walk_packages(package.__path__, "pitwarden."):
        try:
            yield from annotations(importlib.import_module(found.name))
        except Exception as error:
            yield f"import {found.name}: {type(error).__name__}: {error}"


def annotations(module):
    for name, thing in defined_in(module, module.__name__):
        try:
            typing.get_type_hints(thing)
        except Exception as error:
            yield f"annotations of {module.__name__}.{name}: {type(error).__name__}: {error}"


def defined_in(owner, module_name):
    for name, thing in vars(owner).items():
        thing = inspect.unwrap(thing.fget) if isinstance(thing, property) else thing
        thing = thing.__func__ if isinstance(thing, (staticmethod, classmethod)) else thing
        if getattr(thing, "__module__", None) != module_name:
            continue
        if inspect.isclass(thing):
            yield name, thing
            yield from ((f"{name}.{inner}", what) for inner, what in defined_in(thing, module_name))
        elif inspect.isfunction(thing):
            yield name, thing


def main(sdk, *folders):
    sys.path.insert(0, sdk)
    try:
        importlib.import_module("grpc")
    except ImportError:
        sys.modules["grpc"] = _StandIn("grpc")
        sys.modules["grpc"]._cython = sys.modules["grpc._cython"] = _StandIn("grpc._cython")
    print(sys.version.split()[0])
    for failure in [*parse([sdk, *folders]), *import_sdk()]:
        print(failure)
