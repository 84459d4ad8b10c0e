"""The chaos agent: does on purpose what bad agents do. `AGENT_MODE` chooses how it starts, a payload `{"do": …}` what it does.

Modes that serve: `sdk` (default, the built-in SDK, every action of actions/) and `raw` (a socket server of its own, the same
actions and besides every way to answer HTTP wrongly). Modes that fail to start, or start wrongly: starting.py.
"""

import starting

if __name__ == "__main__":
    starting.start()
