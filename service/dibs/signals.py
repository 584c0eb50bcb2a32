"""The signals that stop a service."""

import signal


def that_stop() -> list[signal.Signals]:
    """SIGTERM always; and SIGINT, unless the service was started with it ignored.

    `nohup` and the background jobs of scripts start programs so: the Ctrl-C in that terminal is
    for somebody else.
    """
    is_ours = signal.getsignal(signal.SIGINT) != signal.SIG_IGN
    return [signal.SIGTERM, signal.SIGINT] if is_ours else [signal.SIGTERM]
