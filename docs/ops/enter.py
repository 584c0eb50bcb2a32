"""The container's entry point: starts dibs as a user that owns only the data directory.

If the platform gives the volume to the image's user, nothing else is needed. If it mounts the
volume as root's (Fly.io), the image is built with RUN_AS=0:0: then this script gives the data
directory to the user and drops root for good, before any code of dibs runs.
"""

import os
import shutil
import sys

USER = 10001

# Looked up as root, since the other user may be unable to read some folders of the PATH.
program = shutil.which("dibs") or sys.exit("dibs is not on the PATH")
if os.geteuid() == 0:
    data = os.environ.get("DIBS_DATA_DIR", "/data/dibs")
    os.makedirs(data, mode=0o700, exist_ok=True)
    os.chown(data, USER, USER)
    os.setgroups([])
    os.setgid(USER)
    os.setuid(USER)
os.execv(program, ["dibs", *sys.argv[1:]])  # noqa: S606 - the program of the image
