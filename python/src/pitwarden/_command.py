"""A command of an application: a function, its name, and how it is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Optional

from .errors import InvalidArgument, Refusal


class Command:
    """A function that callers run by its name."""

    __slots__ = ("_wrapped", "function", "is_async", "name", "streams", "summary")

    def __init__(self, name: str, function: Callable[..., Any], streams: Optional[bool] = None) -> None:
        """``streams``: True if the command streams its results; None: decided by the kind of function."""
        inner = inspect.unwrap(function)
        self.name = name
        self.function = function
        # Decided by the outer function: a sync wrapper may run an async function to its end. If it returns a coroutine
        # instead, that is awaited (_executor.py).
        self.is_async = _is_kind(function, inspect.iscoroutinefunction, inspect.isasyncgenfunction)
        # A guess for a sync wrapper: most return the generator of the function that they wrap. Values are streamed only
        # if the call returns an iterator.
        self.streams = _is_kind(inner, inspect.isgeneratorfunction, inspect.isasyncgenfunction) or _is_kind(
            function, inspect.isgeneratorfunction, inspect.isasyncgenfunction
        )
        if streams is not None:
            self.streams = streams
        self.summary = (inspect.getdoc(function) or "").partition("\n")[0]
        self._wrapped = inner is not function

    def invoke(self, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Calls the function. Returns a value, a generator, a coroutine or an async generator.

        Raises Refusal if the arguments do not fit the signature. The signature is looked at only when the call failed
        with a TypeError, because checking it beforehand would slow every call down.
        """
        try:
            return self.function(*args, **kwargs)
        except TypeError as error:
            raised_by_call = error.__traceback__ is not None and error.__traceback__.tb_next is None
            if raised_by_call or self._wrapped:
                self._refuse_mismatch(args, kwargs)
            raise

    def _refuse_mismatch(self, args: list[Any], kwargs: dict[str, Any]) -> None:
        try:
            signature = inspect.signature(self.function)
        except (TypeError, ValueError):
            return
        try:
            signature.bind(*args, **kwargs)
        except TypeError as mismatch:
            message = f"{self.name} takes {_parameters(signature)}, got {_given(args, kwargs)}: {mismatch}"
            raise Refusal(InvalidArgument(message)) from None


def _is_kind(function: Callable[..., Any], *kinds: Callable[[Any], bool]) -> bool:
    # A callable object is of the kind of its __call__ method.
    called = type(function).__call__
    return any(kind(function) or kind(called) for kind in kinds)


def _parameters(signature: inspect.Signature) -> str:
    parameters = [p.replace(annotation=_unquoted(p.annotation)) for p in signature.parameters.values()]
    try:
        return str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))
    # The __repr__ of a default value is user code.
    except BaseException:
        return f"({', '.join(signature.parameters)})"


class _Unquoted(str):
    __slots__ = ()
    __repr__ = str.__str__


def _unquoted(annotation: object) -> object:
    # With `from __future__ import annotations` annotations are strings, and would be shown in quotes.
    return _Unquoted(annotation) if isinstance(annotation, str) else annotation


def _given(args: list[Any], kwargs: dict[str, Any]) -> str:
    if kwargs:
        return "keyword arguments " + ", ".join(sorted(kwargs)) + (f" and {len(args)} positional" if args else "")
    if not args:
        return "no arguments"
    return f"{len(args)} positional argument{'s' if len(args) > 1 else ''}"
