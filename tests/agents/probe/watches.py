"""Inotify watches, as many as are wanted without making a file for any: on what is in /usr."""

import ctypes
import errno
import os

import syscalls

# Of the file's own end, which does not come: nobody reads these instances.
_IN_DELETE_SELF = 0x400

# Not there (a link to nowhere), or not for us.
_NOT_THIS_ONE = (errno.ENOENT, errno.EACCES, errno.ELOOP)


def add(instances, count):
    """So many watches, or as many as can be had; how many. One is of an instance on an inode: many instances need few files."""
    held = set()
    for path in _paths():
        name = ctypes.create_string_buffer(os.fsencode(path))
        for instance in instances:
            if len(held) >= count:
                return len(held)
            outcome = syscalls.call("inotify_add_watch", instance, syscalls.address(name), _IN_DELETE_SELF)
            if outcome.value != -1:
                held.add((instance, outcome.value))
            elif outcome.error == errno.ENOSPC:
                return len(held)
            elif outcome.error not in _NOT_THIS_ONE:
                syscalls.raising(outcome, "inotify_add_watch")
    return len(held)


def _paths():
    for folder, _, files in os.walk("/usr"):
        yield folder
        yield from (f"{folder}/{file}" for file in files)
