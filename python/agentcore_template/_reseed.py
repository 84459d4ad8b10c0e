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
    uuid: Any = sys.modules.get("uuid")
    if uuid:
        uuid._last_timestamp = None
        uuid._node = None
    numpy = sys.modules.get("numpy.random")
    if numpy:
        numpy.seed()
