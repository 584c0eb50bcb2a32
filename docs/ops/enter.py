"""What the container starts: dibs, as a user that owns nothing but the data directory.

Where the platform gives the volume to the image's user there is nothing to do. Where it mounts the
volume as root's (Fly.io), the image is built with RUN_AS=0:0: then the data directory is given
away, and root with it, for good, before anything of dibs runs.
"""

import os
import shutil
import sys

USER = 10001

# Before root is gone: not everything that root may read is for the other user.
program = shutil.which("dibs") or sys.exit("dibs is not on the PATH")
if os.geteuid() == 0:
    data = os.environ.get("DIBS_DATA_DIR", "/data/dibs")
    os.makedirs(data, mode=0o700, exist_ok=True)
    os.chown(data, USER, USER)
    os.setgroups([])
    os.setgid(USER)
    os.setuid(USER)
os.execv(program, ["dibs", *sys.argv[1:]])  # noqa: S606 - the one of the image
