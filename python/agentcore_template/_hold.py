"""Where a program stops: at the moment at which it would serve.

`Server.run` of uvicorn, which the AWS SDK's `app.run()` ends in as every other `uvicorn.run()` does, and the
listening socket of the built-in SDK are wrapped when their modules are first imported. The wrapper does not come back
before there is someone to serve: in a fork, or in the throw-away child. So the program's own stack, up to its
`app.run()`, is in every fork, and what stands behind that call is done when the session ends."""

from __future__ import annotations

import functools
import gc
import os
import sys
from typing import TYPE_CHECKING, Any

from agentcore_template import _become, _fitness, _learn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    from agentcore_template._orders import Orders


# Exit status of a fork that waited for an order in vain: the shim is gone.
_NO_MORE_ORDERS = 75


class Template:
    """This process, until it is a fork."""

    def __init__(self, orders: Orders, warmup: str | None = None) -> None:
        self._orders = orders
        self._warmup = warmup
        self._warmed = False
        self.serving = False

    def warm(self, application: Any, lifespan: str) -> None:
        """Make the warm-up call, if there is one to make."""
        if self.serving or not self._warmup:
            return
        from agentcore_template import _warm

        problem = _warm.warm(application, self._warmup, lifespan)
        self._warmup = None
        self._warmed = True
        if problem:
            self.refuse(problem)

    def hold(self, host: str, port: int) -> None:
        """Come back where there is someone to serve on that port: never in the template itself."""
        if self.serving:
            return
        unfit = _fitness.why_not(self._orders.fileno())
        learned = None if unfit else _learn.learn(host, port)
        if learned is _learn.IN_CHILD:
            self.serving = True
            return
        if isinstance(learned, str):
            unfit = learned
            if self._warmed:
                unfit += " (its start-up hook, if any, had run before, for the warm-up call, and may not run twice)"
        unfit = unfit or _fitness.why_not(self._orders.fileno())
        if unfit:
            self._orders.refuse(unfit)
            os._exit(0)
        # What is there now stays: a collection in a fork would touch, and so copy, all of it.
        gc.collect()
        gc.freeze()
        self._orders.ready()
        self._fork_on_demand()
        self.serving = True

    def refuse(self, reason: str) -> None:
        """For a program that serves in a way that cannot be forked."""
        if not self.serving:
            self._orders.refuse(reason)
            os._exit(0)

    def _fork_on_demand(self) -> None:
        """Come back in forks only.

        The first of the two forks is made ahead: it is the one that waits for an order, and this process makes the
        next when that one has taken it.
        """
        me = os.getpid()
        while True:
            flush()
            taken, take = os.pipe()
            first = os.fork()
            if first == 0:
                channel = self._orders.channel()
                if channel is None:
                    os._exit(_NO_MORE_ORDERS)
                os.close(taken)
                os.close(take)
                self._orders.close()
                _become.join(channel, me)
                return
            os.close(take)
            # Its end, or that it has closed this: both mean that another one is due.
            os.read(taken, 1)
            os.close(taken)
            if _NO_MORE_ORDERS in _ended():
                os._exit(0)


def _ended() -> list[int]:
    """Exit statuses of first forks; the second ones are the shim's to reap."""
    statuses = []
    try:
        while True:
            found, status = os.waitpid(-1, os.WNOHANG)
            if found == 0:
                break
            statuses.append(os.waitstatus_to_exitcode(status))
    except ChildProcessError:
        pass
    return statuses


def flush() -> None:
    """Write what is buffered: else each fork would write it again."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            pass  # There is none, or it is closed.


def _patch_uvicorn(module: ModuleType, template: Template) -> None:
    run, serve = module.Server.run, module.Server.serve

    @functools.wraps(run)
    def held_run(self: Any, *args: Any, **options: Any) -> Any:
        if args or any(options.values()):
            template.refuse("the program gives uvicorn sockets of its own")
        if not self.config.loaded:
            # What `serve` would do first: it opens nothing, and each fork would do it again.
            self.config.load()
        template.warm(self.config.loaded_app, self.config.lifespan)
        template.hold(self.config.host, self.config.port)
        return run(self, *args, **options)

    @functools.wraps(serve)
    def held_serve(self: Any, *args: Any, **options: Any) -> Any:
        template.refuse("the program serves inside an event loop of its own (uvicorn's Server.serve)")
        return serve(self, *args, **options)

    module.Server.run, module.Server.serve = held_run, held_serve


def _patch_built_in(module: ModuleType, template: Template) -> None:
    begin = module.Server.__init__

    @functools.wraps(begin)
    def held_begin(self: Any, host: str, port: int, *args: Any) -> None:
        template.hold(host, port)
        begin(self, host, port, *args)

    module.Server.__init__ = held_begin


_TARGETS: dict[str, Callable[[ModuleType, Template], None]] = {
    "uvicorn.server": _patch_uvicorn,
    "bedrock_agentcore.runtime._server": _patch_built_in,
}


class _Loader:
    """A module's own loader, and what is to be done to the module after."""

    def __init__(self, loader: Any, after: Callable[[ModuleType], None]) -> None:
        self._loader = loader
        self._after = after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._after(module)


class _Finder:
    """Finds what the others find, and puts the wrapper on it."""

    def __init__(self, template: Template) -> None:
        self._template = template

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        patch = _TARGETS.get(name)
        if patch is None:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = find(name, path, target) if find and finder is not self else None
            if spec and spec.loader:
                spec.loader = _Loader(spec.loader, lambda module: patch(module, self._template))  # type: ignore[assignment]
                return spec
        return None


def install(template: Template) -> None:
    """From now on, whoever would serve stops there."""
    sys.meta_path.insert(0, _Finder(template))
