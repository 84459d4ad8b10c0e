"""K03–K06, K22: who the agent is. Its ids inside, the host ids behind them, groups, and no way to become another."""

import os

import syscalls
from registry import group, probe
from verdict import CLOSED, attempt, judge, passed, refused

AGENT = 1000
_UNSET = 0xFFFFFFFF


def _map(name):
    """[(inside, outside, count)]; read from inside, `outside` is in the parent namespace's numbers: the host's."""
    with open(f"/proc/self/{name}", encoding="ascii") as file:
        return [tuple(map(int, line.split())) for line in file]


@group("K03", {"uid_map": "uid_map", "gid_map": "gid_map"})
def mapped(_subject, _name, file):
    """Own ids, none of them the host's root, and no wide range (0 and 1000 are all a session needs)."""
    rows = _map(file)
    wide = sum(count for _, _, count in rows)
    low = [outside for _, outside, _ in rows if outside < 65536]
    return judge(bool(rows) and not low and wide <= 65536, f"{rows}")


@probe("K03.two_ids")
def no_more_than_two_ids(_subject):
    """Each further id is one more that a set-uid bug could become."""
    rows = _map("uid_map")
    return judge(sum(count for _, _, count in rows) == 2, f"{rows}")


@probe("K03.host_uid")
def host_uid_behind_the_agent(subject):
    """Never a uid that the host itself uses (canaries["host_uids"])."""
    mine = _outside("uid_map", os.getuid())
    return judge(mine not in set(subject.canary("host_uids")), f"host uid {mine}")


@probe("K03.range")
def uid_range_of_its_own(subject):
    """canaries["peer"]["uid"]: the host uid of another session's agent; ["peer"]["uid_range"]: [first, count]."""
    mine = _outside("uid_map", os.getuid())
    first, count = subject.canary("peer", "uid_range")
    return judge(not first <= mine < first + count, f"host uid {mine}, the peer's range {first}+{count}")


def _outside(file, inside):
    for start, outside, count in _map(file):
        if start <= inside < start + count:
            return outside + inside - start
    return -1


@probe("K04")
def setgroups_denied(_subject):
    with open("/proc/self/setgroups", encoding="ascii") as file:
        shown = file.read().strip()
    return judge(shown == "deny", f"setgroups: {shown}")


@probe("K04.call")
def setgroups_call(_subject):
    return attempt(lambda: os.setgroups([0]), CLOSED)


@probe("K05")
def no_extra_groups(_subject):
    extra = [number for number in os.getgroups() if number != os.getgid()]
    return judge(not extra, f"supplementary groups {extra}")


@probe("K06.agent_uid")
def runs_as_the_agents_uid(_subject):
    return judge(os.getresuid() == (AGENT,) * 3, f"uids {os.getresuid()}")


@probe("K06.agent_gid")
def runs_as_the_agents_gid(_subject):
    return judge(os.getresgid() == (AGENT,) * 3, f"gids {os.getresgid()}")


@probe("K06.every_thread", in_agent=True)
def every_thread_has_the_agents_ids(_subject):
    """Ids belong to threads: read for each one of the agent's own process. (By itself: nobody else sees that of a fork.)"""
    wrong = []
    for thread in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{thread}/status", encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file if ":" in line)
        if set(fields["Uid"].split()) != {str(AGENT)} or set(fields["Gid"].split()) != {str(AGENT)}:
            wrong.append((thread, fields["Uid"].split()))
    return judge(not wrong, f"threads with other ids: {wrong[:4]}")


BECOMING = {
    "setuid": lambda: syscalls.call("setuid", 0),
    "seteuid": lambda: syscalls.call("setresuid", -1, 0, -1),
    "setreuid": lambda: syscalls.call("setreuid", 0, 0),
    "setresuid": lambda: syscalls.call("setresuid", 0, 0, 0),
    "saved": lambda: syscalls.call("setresuid", -1, -1, 0),
    "setgid": lambda: syscalls.call("setgid", 0),
    "setregid": lambda: syscalls.call("setregid", 0, 0),
    "setresgid": lambda: syscalls.call("setresgid", 0, 0, 0),
    "unmapped": lambda: syscalls.call("setuid", 12345),
}


@group("K06", BECOMING)
def become_another(_subject, name, call):
    # An id that is not in the map is EINVAL whoever asks: as much of a refusal.
    return refused(call(), CLOSED | {22} if name == "unmapped" else CLOSED)


@group("K06.fs", {"uid": "setfsuid", "gid": "setfsgid"})
def file_system_id(_subject, _name, call):
    """Never fails, only reports the previous value: ask twice."""
    syscalls.call(call, 0)
    now = syscalls.call(call, _UNSET).value
    return judge(now != 0, f"{call}: now {now}")


@probe("K22")
def login_uid(_subject):
    """A login uid inherited from the daemon's caller would name a person in audit records and in loginuid checks."""
    try:
        with open("/proc/self/loginuid", encoding="ascii") as file:
            value = int(file.read())
    except OSError as fault:
        return passed(str(fault.strerror))
    return judge(value in (_UNSET, 65534, AGENT), f"loginuid {value}")


