"""rtnetlink questions: which interfaces, addresses and routes are there, and would the kernel find a route to X.

This is how the probes look at the network. They ask the kernel's tables; they never send a packet anywhere
(/proc/net is absent under subset=pid).
"""

import os
import socket
import struct

GETLINK, GETADDR, GETROUTE = 18, 22, 26
SETLINK, NEWADDR, NEWROUTE = 19, 20, 24
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_HEADER = struct.Struct("=IHHII")
IFLA_IFNAME, IFA_ADDRESS, RTA_DST, RTA_OIF, RTA_GATEWAY = 3, 1, 1, 4, 5
RT_TABLE_LOCAL = 255


def links():
    """index -> name"""
    found = {}
    for body in _dump(GETLINK, struct.pack("=BxHiII", socket.AF_UNSPEC, 0, 0, 0, 0)):
        index = struct.unpack_from("=BxHiII", body)[2]
        found[index] = attributes(body[16:]).get(IFLA_IFNAME, b"?").rstrip(b"\0").decode(errors="replace")
    return found


def addresses():
    """(interface index, text) of every address"""
    found = []
    for body in _dump(GETADDR, struct.pack("=BBBBI", socket.AF_UNSPEC, 0, 0, 0, 0)):
        family, _, _, _, index = struct.unpack_from("=BBBBI", body)
        raw = attributes(body[8:]).get(IFA_ADDRESS)
        if family in (socket.AF_INET, socket.AF_INET6) and raw:
            found.append((index, socket.inet_ntop(family, raw)))
    return found


def routes():
    """(family, destination/length, outgoing index, gateway or None), the local table's own entries included"""
    found = []
    for family in (socket.AF_INET, socket.AF_INET6):
        for body in _dump(GETROUTE, struct.pack("=BBBBBBBBI", family, 0, 0, 0, 0, 0, 0, 0, 0)):
            length = body[1]
            known = attributes(body[12:])
            target = known.get(RTA_DST, bytes(4 if family == socket.AF_INET else 16))
            gateway = known.get(RTA_GATEWAY)
            index = struct.unpack("=I", known[RTA_OIF])[0] if RTA_OIF in known else 0
            text = f"{socket.inet_ntop(family, target)}/{length}"
            found.append((family, text, index, socket.inet_ntop(family, gateway) if gateway else None))
    return found


def route_to(address):
    """The name of the interface the kernel would send through; OSError (ENETUNREACH …) when it has no way. A look-up only."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    raw = socket.inet_pton(family, address)
    body = struct.pack("=BBBBBBBBI", family, len(raw) * 8, 0, 0, 0, 0, 0, 0, 0) + attribute(RTA_DST, raw)
    with _socket() as link:
        link.send(message(GETROUTE, _REQUEST, body))
        answer = next(_answers(link))
    index = struct.unpack("=I", attributes(answer[12:])[RTA_OIF])[0]
    return links().get(index, str(index))


def change(kind, body):
    """Try a request that changes something; OSError when refused."""
    with _socket() as link:
        link.send(message(kind, _REQUEST | _ACK, body))
        for _ in _answers(link):
            pass


def message(kind, flags, body):
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body


def attribute(kind, value):
    length = 4 + len(value)
    return struct.pack("=HH", length, kind) + value + bytes(-length % 4)


def attributes(data):
    """type -> value of a run of attributes; a malformed tail ends it."""
    found = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if length < 4 or length > len(data):
            break
        found[kind & 0x3FFF] = data[4:length]
        data = data[(length + 3) & ~3:]
    return found


def _socket():
    # SOCK_RAW as glibc's own if_nameindex and getaddrinfo do: what agents need is what is tried.
    link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    link.settimeout(5)
    link.bind((0, 0))
    return link


def _dump(kind, body):
    with _socket() as link:
        link.send(message(kind, _REQUEST | _DUMP, body))
        yield from _answers(link)


def _answers(link):
    """Message bodies up to the end of the dump, or up to the acknowledgement; an error answer is raised."""
    while True:
        data = link.recv(1 << 16)
        while len(data) >= _HEADER.size:
            length, kind, flags, _, _ = _HEADER.unpack_from(data)
            body = data[_HEADER.size:length]
            if kind == _DONE:
                return
            if kind == _ERROR:
                code = -struct.unpack_from("=i", body)[0]
                if code:
                    raise OSError(code, os.strerror(code), "rtnetlink")
                return
            yield body
            data = data[(length + 3) & ~3:]
            if not flags & 0x2:  # not part of a multi-part answer
                return
