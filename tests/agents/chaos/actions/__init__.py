"""`{"do": NAME, …}` → an answer, or a generator of events. One module per kind of misbehaviour."""

from . import descriptors, disk, ending, identity, logs, memory, network, plain, processes

ACTIONS = {}
for _module in (plain, logs, memory, disk, descriptors, processes, ending, network, identity):
    for _name, _action in _module.ACTIONS.items():
        if _name in ACTIONS:
            raise ValueError(f"two actions are called {_name}")
        ACTIONS[_name] = _action


def act(payload):
    name = payload.get("do") if isinstance(payload, dict) else None
    if name not in ACTIONS:
        return {"error": f"nothing called {name!r} to do", "known": sorted(ACTIONS)}
    return ACTIONS[name](payload)
