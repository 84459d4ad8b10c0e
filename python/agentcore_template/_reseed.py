"""Randomness of its own for a fork: whatever the template had drawn and kept would be the same in every session.

`secrets`, `os.urandom`, `uuid.uuid4` and `random.SystemRandom` keep nothing. Not here: generators that the agent's
own code has made while it was loaded (`random.Random()`, `numpy.random.default_rng()`), which nobody can tell from
those that are meant to be the same in every run."""

from __future__ import annotations

import os
import sys
from typing import Any


def reseed() -> None:
    """Only what is loaded; nothing is imported."""
    random = sys.modules.get("random")
    if random:
        random.seed()
    ssl = sys.modules.get("ssl")
    if ssl:
        # OpenSSL notices a fork by its process number, which `_become` sees to; this does not depend on it.
        ssl.RAND_add(os.urandom(64), 64.0)
    uuid = sys.modules.get("uuid")
    if uuid:
        _reseed_uuid1(uuid)
    numpy = sys.modules.get("numpy.random")
    if numpy:
        numpy.seed()


def _reseed_uuid1(uuid: Any) -> None:
    """`uuid1` asks libuuid, which keeps node and clock sequence where nothing reaches them, and notices no fork.

    So both are changed in what it answers. Without its answers Python would ask `random`, which the agent may have
    seeded.
    """
    node = bytearray(os.urandom(6))
    node[0] |= 1  # RFC 4122, section 4.5: no network card's
    uuid._node = int.from_bytes(node, "big")
    generate = getattr(uuid, "_generate_time_safe", None)
    if not generate:
        return
    # Not in place of its own: that differs between threads, and changes when the clock is set back. It has 14 bits.
    change = int.from_bytes(os.urandom(2), "big") & 0x3FFF

    def generate_own() -> tuple[bytes, Any]:
        drawn, safe = generate()
        sequence = int.from_bytes(drawn[8:10], "big") ^ change
        return drawn[:8] + sequence.to_bytes(2, "big") + node, safe

    uuid._generate_time_safe = generate_own
