"""N01–N06, N10–N15: the session's own network, and the socket families it may use.

Nothing here sends to an address that is not loopback: other destinations are only looked up in the kernel's routes.
"""

import array
import errno
import fcntl
import os
import socket
import struct

import netlink
import syscalls
from registry import group, probe
from verdict import ABSENT, CLOSED, GUARDED, all_of, attempt, failed, info, judge, passed

LOOPBACK = "lo"


# --- N01: interfaces, addresses, routes -------------------------------------------------------------------------------


@probe("N01")
def interfaces_by_netlink(_subject):
    names = sorted(netlink.links().values())
    return judge(names == [LOOPBACK], f"interfaces {names}")


@probe("N01.ifconf")
def interfaces_by_ioctl(_subject):
    """SIOCGIFCONF: the older question, should the first be answered by a filter."""
    buffer = array.array("B", bytes(40 * 64))
    where, length = buffer.buffer_info()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        answer = fcntl.ioctl(asked, 0x8912, struct.pack("iL", length, where))
    used = struct.unpack("iL", answer)[0]
    names = {bytes(buffer[start:start + 16]).rstrip(b"\0").decode() for start in range(0, used, 40)}
    return judge(names <= {LOOPBACK}, f"interfaces with addresses {sorted(names)}")


@probe("N01.addresses")
def addresses(_subject):
    shown = [text for _, text in netlink.addresses()]
    strange = [text for text in shown if not (text.startswith("127.") or text == "::1")]
    return judge(not strange and "127.0.0.1" in shown, f"addresses {shown}")


@probe("N01.routes")
def routes(_subject):
    names = netlink.links()
    shown = [(target, names.get(index, index), gateway) for _, target, index, gateway in netlink.routes()]
    # An interface of 0 is a route that refuses (unreachable, blackhole).
    strange = [route for route in shown if route[1] not in (LOOPBACK, 0) or route[2]]
    return judge(not strange, f"{len(shown)} routes, not by {LOOPBACK}: {strange[:4]}")


@probe("N01.up", must_work=True)
def loopback_is_up(_subject):
    with socket.socket() as listener, socket.socket() as client:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        client.settimeout(5)
        try:
            client.connect(listener.getsockname())
        except OSError as fault:
            return failed(str(fault))
        return passed("a connection over 127.0.0.1 works")


# --- N02–N04: the host's own listeners --------------------------------------------------------------------------------

BY_ADDRESS = {
    "ipv4": (socket.AF_INET, "127.0.0.1"),
    "any": (socket.AF_INET, "0.0.0.0"),
    "other_loopback": (socket.AF_INET, "127.1.2.3"),
    "ipv6": (socket.AF_INET6, "::1"),
    "mapped": (socket.AF_INET6, "::ffff:127.0.0.1"),
    "any6": (socket.AF_INET6, "::"),
}
UNREACHED = frozenset({errno.ECONNREFUSED, errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EHOSTUNREACH, errno.EAFNOSUPPORT})


@group("N02", {f"{port}_{name}": (port, *row) for port in ("canary", "daemon") for name, row in BY_ADDRESS.items()})
def host_port(subject, _name, row):
    """canaries["tcp_port"]: a listener of the harness; canaries["daemon_port"]: the daemon's own HTTP port."""
    port, family, address = row
    number = subject.canary("tcp_port" if port == "canary" else "daemon_port")
    return attempt(lambda: _connect(family, (address, number)), UNREACHED)


def _connect(family, target, kind=socket.SOCK_STREAM):
    with socket.socket(family, kind) as client:
        client.settimeout(3)
        client.connect(target)
        return target


@group("N03", {"stream": socket.SOCK_STREAM, "datagram": socket.SOCK_DGRAM, "packets": socket.SOCK_SEQPACKET})
def host_abstract_socket(subject, _name, kind):
    """EPROTOTYPE would mean that the name is known."""
    name = "\0" + subject.canary("abstract")
    return attempt(lambda: _connect(socket.AF_UNIX, name, kind), {errno.ECONNREFUSED, errno.ENOENT})


@group("N04", {"unix": "unix", "tcp": "tcp", "udp": "udp", "route": "route", "arp": "arp", "dev": "dev"})
def socket_tables(subject, _name, name):
    """/proc/net goes with subset=pid, a process's own net/ stays: it must show this network only, not the host's canary."""
    try:
        with open(f"/proc/self/net/{name}", encoding="ascii", errors="replace") as file:
            text = file.read()
    except OSError as fault:
        return passed(errno.errorcode[fault.errno])
    port = f":{subject.canary('tcp_port'):04X} 00000000:0000 0A"  # listening
    interfaces = {line.split(":")[0].strip() for line in text.splitlines()[2:]} if name == "dev" else {LOOPBACK}
    shown = subject.canary("abstract") in text or port in text or interfaces != {LOOPBACK}
    return judge(not shown, f"{len(text.splitlines())} lines, the host's canary {'among them' if shown else 'not'}")


# --- N05: families ----------------------------------------------------------------------------------------------------

_RAW, _DGRAM, _STREAM, _SEQ = socket.SOCK_RAW, socket.SOCK_DGRAM, socket.SOCK_STREAM, socket.SOCK_SEQPACKET
FAMILIES = {
    "packet": (17, _RAW, 0x0300), "packet_datagram": (17, _DGRAM, 0x0300),
    "raw": (2, _RAW, 255), "raw_icmp": (2, _RAW, 1), "raw_tcp": (2, _RAW, 6), "raw6": (10, _RAW, 255), "raw6_icmp": (10, _RAW, 58),
    "vsock": (40, _STREAM, 0), "vsock_datagram": (40, _DGRAM, 0), "alg": (38, _SEQ, 0), "key": (15, _RAW, 2),
    "netlink_usersock": (16, _RAW, 2), "netlink_sock_diag": (16, _RAW, 4), "netlink_nflog": (16, _RAW, 5),
    "netlink_xfrm": (16, _RAW, 6), "netlink_selinux": (16, _RAW, 7), "netlink_iscsi": (16, _RAW, 8),
    "netlink_audit": (16, _RAW, 9), "netlink_fib": (16, _RAW, 10), "netlink_connector": (16, _RAW, 11),
    "netlink_netfilter": (16, _RAW, 12), "netlink_uevent": (16, _RAW, 15), "netlink_generic": (16, _RAW, 16),
    "netlink_rdma": (16, _RAW, 20), "netlink_crypto": (16, _RAW, 21),
    "can": (29, _RAW, 1), "can_bcm": (29, _DGRAM, 2), "bluetooth": (31, _RAW, 1), "tipc": (30, _SEQ, 0), "rds": (21, _SEQ, 0),
    "sctp": (2, _STREAM, 132), "dccp": (2, 6, 33), "udplite": (2, _DGRAM, 136), "smc": (43, _STREAM, 0), "xdp": (44, _RAW, 0),
    "qipcrtr": (42, _DGRAM, 0), "mctp": (45, _DGRAM, 0), "kcm": (41, _DGRAM, 0), "nfc": (39, _SEQ, 1), "llc": (26, _DGRAM, 0),
    "appletalk": (5, _DGRAM, 0), "x25": (9, _SEQ, 0), "ax25": (3, _DGRAM, 0), "pppox": (24, _DGRAM, 0), "ib": (27, _RAW, 0),
    "rxrpc": (33, _DGRAM, 2), "phonet": (35, _DGRAM, 0), "ieee802154": (36, _DGRAM, 0), "caif": (37, _SEQ, 0),
    "isdn": (34, _DGRAM, 1), "ash": (18, _RAW, 0), "decnet": (12, _SEQ, 0),
}


@group("N05", FAMILIES)
def socket_of_family(_subject, _name, row):
    """Any refusal: an unbuilt family says EAFNOSUPPORT or ESOCKTNOSUPPORT, the filter EPERM, EACCES or EAFNOSUPPORT."""
    return attempt(lambda: socket.socket(*row).close() or "created")


@group("N05.allowed", {"unix": (1, _STREAM, 0), "inet": (2, _STREAM, 0), "inet_datagram": (2, _DGRAM, 0),
                       "inet6": (10, _STREAM, 0), "route": (16, _RAW, 0)}, must_work=True)
def needed_family(_subject, _name, row):
    try:
        socket.socket(*row).close()
    except OSError as fault:
        return failed(str(fault))
    return passed("created")


@group("N05.shown", {"icmp_datagram": (2, _DGRAM, 1), "mptcp": (2, _STREAM, 262)})
def debatable_family(_subject, _name, row):
    """Unprivileged by the kernel's own rules; which it is, for the record."""
    try:
        socket.socket(*row).close()
    except OSError as fault:
        return info(f"refused: {errno.errorcode[fault.errno]}")
    return info("allowed")


@probe("N05.high_bits")
def family_in_high_bits(_subject):
    """The kernel reads 32 bits of the family: a filter that compares 64 would let AF_PACKET through as 1<<32|17."""
    return all_of(
        (f"{high:#x}", attempt(lambda high=high: syscalls.raising(syscalls.call(41, high | 38, _SEQ, 0), "socket")))
        for high in (1 << 32, 1 << 63, 0xFFFFFFFF << 32)
    )


@group("N05.pair", {"vsock": 40, "tipc": 30, "netlink": 16})
def socketpair_of_family(_subject, _name, family):
    pair = (syscalls.ctypes.c_int * 2)()
    return attempt(lambda: syscalls.raising(syscalls.call(53, family, _STREAM, 0, syscalls.address(pair)), "socketpair"))


# --- N06: would the kernel find a way? (a look-up, no packet) ---------------------------------------------------------

DESTINATIONS = {
    "metadata": "169.254.169.254", "metadata_ecs": "169.254.170.2", "metadata6": "fd00:ec2::254", "internet": "192.0.2.1",
    "internet6": "2001:db8::1", "private_10": "10.0.0.1", "private_172": "172.16.0.1", "private_192": "192.168.0.1",
    "carrier": "100.64.0.1", "link_local6": "fe80::1", "multicast": "224.0.0.1", "broadcast": "255.255.255.255",
}


@group("N06", DESTINATIONS)
def route_to(_subject, _name, address):
    try:
        through = netlink.route_to(address)
    except OSError as fault:
        return passed(errno.errorcode[fault.errno])
    return judge(through == LOOPBACK, f"{address} by {through}")


@probe("N06.host")
def route_to_the_host(subject):
    """canaries["host_addresses"]: every address of the host."""
    results = []
    for address in subject.canary("host_addresses"):
        try:
            through = netlink.route_to(address)
        except OSError as fault:
            results.append((address, passed(errno.errorcode[fault.errno])))
            continue
        results.append((address, judge(through == LOOPBACK, f"by {through}")))
    return all_of(results)


# --- N10–N15 ----------------------------------------------------------------------------------------------------------


@probe("N10.paths", seconds=60)
def control_sockets_by_path(subject):
    """canaries["control_sockets"]: where the daemon, launcher and shim listen, as the host names them."""
    places = list(subject.canary("control_sockets")) + [
        "/run/agentcore/api.sock", "/run/docker.sock", "/var/run/docker.sock", "/run/containerd/containerd.sock",
        "/run/systemd/private", "/run/systemd/notify", "/run/dbus/system_bus_socket", "/run/systemd/journal/socket",
    ]
    results = []
    for path in places:
        for kind in (_STREAM, _SEQ, _DGRAM):
            results.append((path, attempt(lambda: _connect(socket.AF_UNIX, path, kind), ABSENT | GUARDED)))
    return all_of(results)


@probe("N10.abstract")
def control_sockets_by_abstract_name(subject):
    """The same names tried as abstract ones, and the peer's and host's session ids."""
    names = [path.strip("/") for path in subject.canary("control_sockets")] + ["agentcore", "agentcore-shim", "shim", "control"]
    return all_of(
        (name, attempt(lambda name=name, kind=kind: _connect(socket.AF_UNIX, "\0" + name, kind), {errno.ECONNREFUSED}))
        for name in names for kind in (_STREAM, _SEQ)
    )


@probe("N10.inherited")
def control_sockets_inherited(_subject):
    """Sockets among the agent's descriptors whose other end is a process outside: only stdout and stderr may be one."""
    import at_start

    found = [number for number, target in at_start.DESCRIPTORS.items() if target.startswith("socket:") and number > 2]
    return judge(not found, f"sockets inherited: {found}")


@probe("N10.listeners", seconds=120)
def who_listens_on_loopback(subject):
    """Ports open on the session's own loopback: the agent's, and the egress proxy where the policy grants one."""
    expected = {int(os.environ.get("PORT", "8080")), *subject.canaries.get("loopback_ports", [])}
    found = []
    for port in range(1, 12_000):
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                found.append(port)
    return judge(set(found) <= expected, f"listening {found}, expected {sorted(expected)}")


@group("N12", {"setlink": netlink.SETLINK, "newaddr": netlink.NEWADDR, "newroute": netlink.NEWROUTE})
def change_the_network(_subject, _name, kind):
    """On an interface that does not exist: allowed, it would be ENODEV."""
    bodies = {
        netlink.SETLINK: struct.pack("=BxHiII", 0, 0, 999_999, 0, 0),
        netlink.NEWADDR: struct.pack("=BBBBI", socket.AF_INET, 32, 0, 0, 999_999)
        + netlink.attribute(netlink.IFA_ADDRESS, bytes((10, 0, 0, 1))),
        netlink.NEWROUTE: struct.pack("=BBBBBBBBI", socket.AF_INET, 32, 0, 0, 254, 3, 0, 1, 0)
        + netlink.attribute(netlink.RTA_DST, bytes((10, 9, 9, 9))) + netlink.attribute(netlink.RTA_OIF, struct.pack("=I", 999_999)),
    }
    return attempt(lambda: netlink.change(kind, bodies[kind]), CLOSED)


@group("N13", {"flags": 0x8914, "address": 0x8916, "mtu": 0x8922, "hardware": 0x8924, "rename": 0x8923, "bridge": 0x89A0,
               "route": 0x890B, "txqueue": 0x8943})
def change_an_interface_by_ioctl(_subject, _name, request):
    """On a name that does not exist: allowed, it would be ENODEV."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        return attempt(lambda: fcntl.ioctl(asked, request, struct.pack("16s112x", b"no-such-if")), CLOSED | {errno.ENOTTY, errno.ENOPKG})


@group("N14", {
    "mark": (socket.SOL_SOCKET, 36, struct.pack("i", 1)),
    "send_force": (socket.SOL_SOCKET, 32, struct.pack("i", 1 << 30)),
    "receive_force": (socket.SOL_SOCKET, 33, struct.pack("i", 1 << 30)),
    "debug": (socket.SOL_SOCKET, 1, struct.pack("i", 1)),
    "transparent": (socket.IPPROTO_IP, 19, struct.pack("i", 1)),
    "repair": (socket.IPPROTO_TCP, 19, struct.pack("i", 1)),
    "iptables": (socket.IPPROTO_IP, 64, bytes(128)),
    "priority": (socket.SOL_SOCKET, 12, struct.pack("i", 7)),
})
def privileged_socket_option(_subject, _name, row):
    level, option, value = row
    with socket.socket() as asked:
        return attempt(lambda: asked.setsockopt(level, option, value) or "set", GUARDED | {errno.ENOPROTOOPT, errno.EINVAL})


@group("N16", {
    "tls": (socket.SOCK_STREAM, socket.IPPROTO_TCP, 31, b"tls"),
    "espintcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP, 31, b"espintcp"),
    "smc": (socket.SOCK_STREAM, socket.IPPROTO_TCP, 31, b"smc"),
    "encap": (socket.SOCK_DGRAM, socket.IPPROTO_UDP, 100, struct.pack("i", 2)),
})
def protocol_upon_a_socket(_subject, _name, row):
    """Where it is open: ENOTCONN, ENOENT without the module, or done."""
    kind, level, option, value = row
    with socket.socket(socket.AF_INET, kind) as asked:
        return attempt(lambda: asked.setsockopt(level, option, value) or "set", CLOSED)


@probe("N15")
def low_ports(_subject):
    """Needs CAP_NET_BIND_SERVICE unless the namespace's sysctl says otherwise; harmless in an own namespace: shown."""
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", 81))
        except OSError as fault:
            return info(f"refused: {errno.errorcode[fault.errno]}")
    return info("allowed")


