"""What a run knows: the canaries of the host, the limits that were promised, and the profile of /proc.

`canaries` is given by the harness (README.md lists the keys). A canary that was not given makes its probes INFO,
or FAIL when the run is `strict`: a suite that is missing half its targets must not look green.
"""

import os


class Missing(Exception):
    """A probe asked for a canary that was not given."""


class Subject:
    def __init__(self, canaries=None, limits=None, profile="pid", strict=False):
        self.canaries = canaries or {}
        self.limits = limits or {}
        self.profile = profile  # "pid" (hidepid=invisible,subset=pid) or "masked" (the fuller /proc)
        self.strict = strict

    def canary(self, *path):
        """`canary("peer", "pid")` is canaries["peer"]["pid"]."""
        value = self.canaries
        for key in path:
            if not isinstance(value, dict) or key not in value:
                raise Missing("no canary " + ".".join(path))
            value = value[key]
        return value

    def limit(self, name):
        """A promised limit, or None when the harness did not name it."""
        return self.limits.get(name)

    @property
    def home(self):
        return os.environ.get("HOME", "")
