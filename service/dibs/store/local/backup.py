"""`dibs backup FILE` and `dibs restore FILE`: copies of a private store, which may be running.

A backup is a copy of the append-only log. The log's files only grow at the end, and a manifest
names them, so a process that opens all files of one manifest has every claim acknowledged before.
"""

import gzip
import os
import re
import shutil
import tarfile
import zlib
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO

from dibs.store.keys import FORMAT, FORMAT_BEFORE
from dibs.store.local import datadir, mark
from dibs.store.local.aof import LOGS, MANIFEST
from dibs.store.local.embedded import EmbeddedStore, StoreUnavailable

_PARTS = re.compile(r"appendonly\.aof\.(manifest|\d+\.(base|incr)\.(aof|rdb))")
_TRIES = 20
_BLOCK = 1 << 20


def backup(data_dir: Path, file: Path) -> str:
    """Write the claims in `data_dir` to `file`; return a report. Raises StoreUnavailable."""
    logs = data_dir / LOGS
    part = file.parent / f"{file.name}.part"
    try:
        with ExitStack() as held:
            names = _open_all(logs, held)
            opened = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(opened, "wb") as output:
                with tarfile.open(fileobj=output, mode="w:gz") as archive:
                    for name, source in names.items():
                        info = tarfile.TarInfo(f"{LOGS}/{name}")
                        info.mode = 0o600
                        # The log may grow during the copy: copy only up to its present size.
                        info.size = os.fstat(source.fileno()).st_size
                        archive.addfile(info, source)
                output.flush()
                os.fsync(output.fileno())
        os.replace(part, file)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise StoreUnavailable(f"cannot write {file}: {error.strerror or error}.") from None
    return f"wrote {file}, {file.stat().st_size} bytes: protect it like a key"


def _open_all(logs: Path, held: ExitStack) -> dict[str, BinaryIO]:
    """Open the manifest and every file that it names, as of one moment. Raises StoreUnavailable."""
    for _ in range(_TRIES):
        try:
            manifest = (logs / MANIFEST).read_bytes()
            with ExitStack() as trying:
                found: dict[str, BinaryIO] = {
                    MANIFEST: trying.enter_context(open(logs / MANIFEST, "rb"))
                }
                for name in re.findall(r"^file (\S+) ", manifest.decode(), re.M):
                    found[name] = trying.enter_context(open(logs / name, "rb"))
                if (logs / MANIFEST).read_bytes() == manifest == found[MANIFEST].read():
                    found[MANIFEST].seek(0)
                    held.enter_context(trying.pop_all())
                    return found
        except FileNotFoundError:  # there is no log yet, or the log is being rewritten
            if not logs.is_dir():
                break
    raise StoreUnavailable(f"{logs.parent} holds no claims of a private store: nothing to copy.")


def restore(data_dir: Path, file: Path) -> str:
    """Put the claims in `file` into `data_dir`, which has none; return a report.

    Raises StoreUnavailable, and leaves `data_dir` without claims then.
    """
    directory = data_dir.resolve()
    os.close(datadir.open_private(directory))
    logs, half = directory / LOGS, directory / f"{LOGS}.restoring"
    if logs.exists():
        raise StoreUnavailable(
            f"{data_dir} already holds claims: name another directory with --data-dir."
        )
    shutil.rmtree(half, ignore_errors=True)
    before = mark.read(directory)
    try:
        _extract(file, half)
        half.rename(logs)
        mark.put(directory, None)  # the mark of an earlier log would refuse the restored one
        return f"restored {_count(directory)} into {data_dir}: now start dibs serve with it"
    except BaseException:
        shutil.rmtree(half, ignore_errors=True)
        shutil.rmtree(logs, ignore_errors=True)
        mark.put(directory, before)
        raise


def _extract(file: Path, into: Path) -> None:
    into.mkdir(mode=0o700)
    try:
        with gzip.open(file) as packed, tarfile.open(fileobj=packed, mode="r:") as archive:
            for member in archive:
                folder, _, name = member.name.partition("/")
                source = archive.extractfile(member) if member.isreg() else None
                if source is None or folder != LOGS or not _PARTS.fullmatch(name):
                    raise StoreUnavailable(
                        f"{file} is not a dibs backup: it contains {member.name!a}."
                    )
                target = os.open(into / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(target, "wb") as output:
                    shutil.copyfileobj(source, output)
            while packed.read(_BLOCK):  # read to the end, where gzip verifies the checksum
                pass
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise StoreUnavailable(f"cannot read {file} as a dibs backup: {error}.") from None
    if not (into / MANIFEST).exists():
        raise StoreUnavailable(f"{file} is not a dibs backup: it has no {MANIFEST}.")


def _count(directory: Path) -> str:
    """Start a store on the restored log, and return the number of its projects in words.

    Raises StoreUnavailable.
    """
    started = EmbeddedStore.start(directory)
    try:
        opened = os.open(directory, os.O_RDONLY)
        try:
            with datadir.client(datadir.socket_path_of(directory, opened)) as store:
                found = store.get("dibs:format")
                projects = store.zcard("dibs:projects")
        finally:
            os.close(opened)
    finally:
        started.stop()
    if found is None:
        raise StoreUnavailable("The backup contains no claims of dibs.")
    if found.decode() not in (FORMAT, FORMAT_BEFORE):
        raise StoreUnavailable(
            f"The backup has data of format {found.decode()}; this dibs reads format {FORMAT}. "
            "Restore it with the version of dibs that wrote it."
        )
    return f"the claims of {projects} project{'s' if projects != 1 else ''}"
