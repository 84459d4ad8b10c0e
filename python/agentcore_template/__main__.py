"""`python3 -m agentcore_template SCRIPT [ARGUMENT]…`, or `-m MODULE` instead of the script."""

from __future__ import annotations

import os
import sys
from importlib.machinery import SourceFileLoader
from types import ModuleType

from agentcore_template import _hold, _orders


def main() -> None:
    """Run the agent's program, up to where it serves."""
    words = sys.argv[1:]
    if not words:
        raise SystemExit("agentcore_template: which program?")
    orders = _orders.Orders.claim(0)
    template = _hold.Template(orders)
    _hold.install(template)
    try:
        _run(words)
    except SystemExit as end:
        if template.serving:
            raise
        orders.refuse(f"the program ended before it served, with exit status {end.code!r}")
        raise
    except BaseException as error:
        if template.serving:
            raise
        orders.refuse(f"the program could not be loaded: {type(error).__name__}: {error}")
        raise
    if not template.serving:
        orders.refuse("the program ended without serving")


def _run(words: list[str]) -> None:
    if words[0] == "-m":
        import runpy

        sys.argv[:] = words[1:]
        sys.path[0] = os.getcwd()
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        return
    script = words[0]
    sys.argv[:] = words
    # As the interpreter does for a script, instead of the folder that `-m` has put there.
    sys.path[0] = os.path.dirname(os.path.realpath(script))
    loader = SourceFileLoader("__main__", script)
    module = ModuleType("__main__")
    module.__file__ = script
    module.__loader__ = loader
    sys.modules["__main__"] = module
    exec(compile(loader.get_data(script), script, "exec", dont_inherit=True), module.__dict__)


main()
