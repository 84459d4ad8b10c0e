"""Which function answers for which id.

A family module registers a function per id (`@probe`) or one function for a group of ids that differ in a table's row
(`@group`). What each id tries and must find is said in catalogue.py; a self-test holds both to the same set of ids.
"""

from typing import Callable, NamedTuple


class Probe(NamedTuple):
    id: str
    action: Callable  # (Subject) -> Result
    seconds: float
    harmless: bool  # reads only its own process: may run outside a session (self-test)
    in_agent: bool  # must run in the agent's own process, not in a forked child
    must_work: bool  # asks that something is allowed; being killed by the filter is then no success


PROBES = {}


def probe(id, *, seconds=10.0, harmless=False, in_agent=False, must_work=False):
    def register(action):
        _add(Probe(id, action, seconds, harmless, in_agent, must_work))
        return action

    return register


def group(id, rows, *, seconds=10.0, harmless=False, must_work=False):
    """`rows`: name -> whatever the function wants to know about it. The function gets (subject, name, row)."""

    def register(action):
        for name, row in rows.items():
            _add(Probe(f"{id}.{name}", _bound(action, name, row), seconds, harmless, False, must_work))
        return action

    return register


def _bound(action, name, row):
    return lambda subject: action(subject, name, row)


def _add(entry):
    if entry.id in PROBES:
        raise ValueError(f"two probes are called {entry.id}")
    PROBES[entry.id] = entry
