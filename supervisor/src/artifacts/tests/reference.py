"""Another reader's and writer's opinion of archives: Python's own zipfile and tarfile.

    reference.py make DIRECTORY     writes archives in many dialects; prints {file: listing}
    reference.py read FILE...       prints {file: listing}, or null where Python refuses

A listing is {path: "d" | "l TARGET" | "f x HEX" | "f - HEX"}. Nothing is ever extracted to disk.
"""

import gzip
import io
import json
import pathlib
import random
import stat
import sys
import tarfile
import zipfile

NAMES = ["agent.py", "a b.txt", "ä/ö.txt", "lib/__init__.py", "lib/deep/er/x.so", "bin/run", "." + "x" * 40, "d/" + "y" * 120 + "/z"]


def add(listing, path, what):
    """Notes an entry and the directories that it implies."""
    parts = path.split("/")
    for end in range(1, len(parts)):
        listing.setdefault("/".join(parts[:end]), "d")
    listing[path] = what


def plain(name):
    name = name[2:] if name.startswith("./") else name
    return name.rstrip("/")


def told(executable, content):
    return f"f {'x' if executable else '-'} {content.hex()}"


def read_zip(path):
    listing = {}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            mode = info.external_attr >> 16 if info.create_system == 3 else 0
            content = archive.read(info)
            if info.is_dir():
                add(listing, plain(info.filename), "d")
            elif stat.S_ISLNK(mode):
                add(listing, plain(info.filename), f"l {content.decode()}")
            else:
                add(listing, plain(info.filename), told(mode & 0o100, content))
    return listing


def read_tar(path):
    listing = {}
    with gzip.open(path) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
        for member in archive.getmembers():
            name = plain(member.name)
            if name in ("", "."):
                continue
            if member.isdir():
                add(listing, name, "d")
            elif member.issym():
                add(listing, name, f"l {member.linkname}")
            elif member.islnk():
                add(listing, name, listing[plain(member.linkname)])
            elif member.isreg():
                content = archive.extractfile(member).read()
                if len(content) != member.size:
                    raise ValueError("short")
                add(listing, name, told(member.mode & 0o100, content))
            else:
                raise ValueError("special")
        stream.read()
    return listing


def read(path):
    try:
        return read_zip(path) if path.endswith(".zip") else read_tar(path)
    except Exception:  # whatever it is: Python has no reading of it
        return None


def tree(rng):
    """Some entries: (name, kind, content or target, executable)."""
    entries = []
    for name in NAMES[:1] + rng.sample(NAMES[1:], rng.randint(0, len(NAMES) - 1)):
        content = rng.randbytes(rng.choice([0, 1, 511, 512, 513, 3000]))
        if rng.random() < 0.3:
            content = content[:10] * 300
        entries.append((name, "file", content, rng.random() < 0.3))
    files = [name for name, *_ in entries]
    if rng.random() < 0.5:
        entries.append(("link", "symlink", files[0], False))
    if rng.random() < 0.3:
        entries.append(("sub/link" + "k" * rng.choice([0, 110]), "symlink", "../" + files[-1], False))
    if rng.random() < 0.5:
        entries.append(("empty", "directory", b"", False))
    return entries


class Pipe(io.RawIOBase):
    """Takes bytes and cannot go back, so that zipfile writes its data descriptors."""

    def __init__(self):
        self.bytes = bytearray()

    def writable(self):
        return True

    def write(self, data):
        self.bytes += data
        return len(data)


def write_zip(path, rng, entries):
    pipe = Pipe() if rng.random() < 0.3 else None
    with zipfile.ZipFile(pipe or path, "w", allowZip64=True) as archive:
        if rng.random() < 0.3:
            archive.comment = b"a comment of the archive"
        for name, kind, content, executable in entries:
            info = zipfile.ZipInfo(name + "/" * (kind == "directory"), (2024, 1, 1, 0, 0, 0))
            info.create_system = 3
            info.compress_type = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
            if kind == "directory":
                info.external_attr = (stat.S_IFDIR | 0o755) << 16
                archive.writestr(info, b"")
            elif kind == "symlink":
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
                archive.writestr(info, content)
            else:
                info.external_attr = (stat.S_IFREG | (0o755 if executable else 0o644)) << 16
                with archive.open(info, "w", force_zip64=rng.random() < 0.2) as file:
                    file.write(content)
    if pipe:
        pathlib.Path(path).write_bytes(pipe.bytes)


def write_tar(path, rng, entries):
    dialect = rng.choice([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    with tarfile.open(path, "w:gz", format=dialect) as archive:
        if rng.random() < 0.3:
            root = tarfile.TarInfo("./")
            root.type = tarfile.DIRTYPE
            archive.addfile(root)
        for name, kind, content, executable in entries:
            if dialect == tarfile.USTAR_FORMAT and max(len(name), len(content) if kind == "symlink" else 0) > 95:
                continue
            info = tarfile.TarInfo(rng.choice(["", "./"]) + name)
            info.mtime = rng.choice([0, 1_700_000_000, 1_700_000_000.25])
            info.uname, info.uid = rng.choice([("agent", 1000), ("", 5_000_000)])
            if dialect == tarfile.USTAR_FORMAT:
                info.uid, info.mtime = 0, int(info.mtime)
            if kind == "directory":
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(info)
            elif kind == "symlink":
                info.type, info.linkname = tarfile.SYMTYPE, content
                archive.addfile(info)
            else:
                info.mode, info.size = (0o755 if executable else 0o644), len(content)
                archive.addfile(info, io.BytesIO(content))
                if rng.random() < 0.2:
                    twin = tarfile.TarInfo(f"twin{len(name)}-{abs(hash(name)) % 97}")
                    twin.type, twin.linkname = tarfile.LNKTYPE, info.name
                    archive.addfile(twin)


def make(directory):
    listings = {}
    for seed in range(80):
        rng = random.Random(seed)
        write, suffix = rng.choice([(write_zip, ".zip"), (write_tar, ".tar.gz")])
        path = str(pathlib.Path(directory) / f"{seed}{suffix}")
        write(path, rng, tree(rng))
        listings[path] = read(path)
        if listings[path] is None:
            raise SystemExit(f"{path} cannot be read by its own writer")
    return listings


if __name__ == "__main__":
    verb, *rest = sys.argv[1:]
    json.dump(make(rest[0]) if verb == "make" else {path: read(path) for path in rest}, sys.stdout)
