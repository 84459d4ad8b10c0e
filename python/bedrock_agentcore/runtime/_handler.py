"""What kind of function an agent registered: sync or async, generator or not, with a context or without.

The answers are those of `inspect`, which takes 10 ms to import; for a plain function they can be read off its
code object, and anything else (partials, callables, wrapped functions) goes to `inspect` itself.
"""

from __future__ import annotations

from types import AsyncGeneratorType, FunctionType, GeneratorType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# `inspect`'s names for bits of `co_flags`.
_VARARGS, _VARKEYWORDS = 0x04, 0x08
_COROUTINE, _ASYNC_GENERATOR = 0x80, 0x200


class Handler:
    """An entrypoint, looked at once."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.name = getattr(function, "__name__", "unknown")
        self.takes_context = _takes_context(function)
        self.is_coroutine = is_coroutine_function(function)
        self.is_async_generator = _is_async_generator_function(function)

    @property
    def needs_loop(self) -> bool:
        """Whether calling it needs an event loop."""
        return self.is_coroutine or self.is_async_generator


def is_generator(value: object) -> bool:
    """Whether a result is to be streamed from this thread."""
    return isinstance(value, GeneratorType)


def is_async_generator(value: object) -> bool:
    """Whether a result is to be streamed from the event loop."""
    return isinstance(value, AsyncGeneratorType)


def is_coroutine_function(function: Any) -> bool:
    """Whether calling it gives something to await; sees through partials and callable objects."""
    if _is_plain(function):
        return bool(function.__code__.co_flags & _COROUTINE)
    import asyncio

    function = _without_partials(function)
    return asyncio.iscoroutinefunction(function) or (
        callable(function) and asyncio.iscoroutinefunction(function.__call__)
    )


def _is_async_generator_function(function: Any) -> bool:
    if _is_plain(function):
        return bool(function.__code__.co_flags & _ASYNC_GENERATOR)
    import inspect

    function = _without_partials(function)
    return inspect.isasyncgenfunction(function) or (
        callable(function) and inspect.isasyncgenfunction(function.__call__)
    )


def _takes_context(function: Any) -> bool:
    """Whether there is a second parameter and its name is `context`."""
    if _is_plain(function):
        names = _parameter_names(function)
    else:
        import inspect

        try:
            names = list(inspect.signature(function).parameters)
        except (TypeError, ValueError):  # a builtin without a signature
            return False
    return len(names) >= 2 and names[1] == "context"


def _parameter_names(function: FunctionType) -> list[str]:
    code = function.__code__
    positional, keyword_only = code.co_argcount, code.co_kwonlyargcount
    stars = list(code.co_varnames[positional + keyword_only :])
    names = list(code.co_varnames[:positional])
    if code.co_flags & _VARARGS:
        names.append(stars.pop(0))
    names += code.co_varnames[positional : positional + keyword_only]
    if code.co_flags & _VARKEYWORDS:
        names.append(stars.pop(0))
    return names


def _is_plain(function: Any) -> bool:
    """A `def` whose attributes cannot change `inspect`'s mind (`__wrapped__`, `_is_coroutine_mark`, …)."""
    return type(function) is FunctionType and not (function.__dict__.keys() - {"run"})


def _without_partials(function: Any) -> Any:
    from functools import partial

    while isinstance(function, partial):
        function = function.func
    return function
