"""A template: an interpreter that has loaded an agent once and makes a session of it by forking.

It runs in a session of its own and serves nobody. `python3 -m agentcore_template SCRIPT [ARGUMENT]…` runs the agent's
program as `python3 SCRIPT` would, until that program is about to serve (`_hold`). There it learns, in a throw-away
child, what the first request imports (`_learn`), looks whether it can be forked at all (`_fitness`), says so on its
standard input, which is a SEQPACKET socket to the template's shim, and then forks on demand: each fork joins the
namespaces of a new session, gives up every privilege (`_become`), gets randomness of its own (`_reseed`), and goes on
to serve there.

Not for: trust. All of this runs in memory that the agent's imports have touched before; whether a fork is what it
must be is looked at from outside (`sandbox::template`)."""
