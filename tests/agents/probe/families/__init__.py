"""The probes, by what they attack. Importing this package registers all of them."""

from . import (
    capabilities,
    cgroup,
    crossing,
    descriptors,
    devices,
    environment,
    files,
    identity,
    ipc,
    kernel_calls,
    limits,
    mounting,
    namespaces,
    network,
    proc,
    processes,
    scratch,
    syscall_table,
)

ALL = (
    files, mounting, scratch, proc, environment, processes, namespaces, identity, capabilities, kernel_calls,
    syscall_table, network, ipc, cgroup, devices, descriptors, limits,
    crossing,
)
