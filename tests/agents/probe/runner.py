"""Choose probes by id, run each in a child of its own, and count."""

import fnmatch
import os
import signal

import child
from families import ALL  # noqa: F401  (importing the families fills the registry)
from registry import PROBES
from subject import Missing, Subject
from verdict import Result, failed, info, passed


class NotInASession(Exception):
    """Probes that attack something run in sessions only."""


def run(wanted, canaries=None, limits=None, profile="pid", strict=False):
    """`wanted`: "all", or ids and patterns (`P02.*`). The answer of the agent."""
    subject = Subject(canaries, limits, profile, strict)
    chosen, unknown = select(wanted)
    _allowed_here(chosen)
    results = [_row(id, failed("no probe of that name")) for id in unknown]
    for id in chosen:
        results.append(_row(id, one(PROBES[id], subject)))
    return {"results": results, "counts": count(results)}


def select(wanted):
    """(ids in catalogue order, patterns that name nothing). A misspelt id must not pass as green."""
    if wanted == "all":
        return list(PROBES), []
    patterns = [wanted] if isinstance(wanted, str) else list(wanted)
    chosen, unknown = set(), []
    for pattern in patterns:
        # "S01" alone means the whole group.
        hits = [id for id in PROBES if fnmatch.fnmatchcase(id, pattern) or id.startswith(pattern + ".")]
        chosen.update(hits)
        if not hits:
            unknown.append(pattern)
    return [id for id in PROBES if id in chosen], unknown


def count(results):
    counts = {"PASS": 0, "FAIL": 0, "INFO": 0, "total": len(results)}
    for result in results:
        counts[result["verdict"]] += 1
    return counts


def one(entry, subject):
    """The verdict of one probe, whatever becomes of its process."""
    try:
        if entry.in_agent:
            return entry.action(subject)
        return Result(*child.run(_verdict, entry.seconds, entry, subject))
    except Missing as missing:
        return _missing(missing, subject)
    except child.Death as death:
        if death.by_signal == signal.SIGSYS and not entry.must_work:
            return passed("killed by the filter (SIGSYS)")
        return failed(f"the probe's process died: {death}")
    except child.Overrun:
        return failed(f"no answer within {entry.seconds:g} s")
    except child.Broken as broken:
        return failed(f"the probe itself broke: {broken}")
    except Exception as fault:  # an in-agent probe that raised: red, and the run goes on
        return failed(f"the probe itself broke: {type(fault).__name__}: {fault}")


def _verdict(entry, subject):
    try:
        return list(entry.action(subject))
    except Missing as missing:
        return list(_missing(missing, subject))


def _missing(missing, subject):
    return failed(f"{missing} (strict)") if subject.strict else info(str(missing))


def _row(id, result):
    return {"id": id, "verdict": result.verdict, "detail": result.detail}


def _allowed_here(chosen):
    """Outside a session these would be attacks on the machine of whoever runs them."""
    if os.environ.get("AGENTCORE_RUNTIME_NAME"):
        return
    attacking = [id for id in chosen if not PROBES[id].harmless]
    if attacking:
        raise NotInASession(f"{len(attacking)} of these probes run in a session only, first {attacking[0]}")
