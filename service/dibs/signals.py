"""The signals that stop a service."""

import signal


def that_stop() -> list[signal.Signals]:
    """Return SIGTERM, and SIGINT unless the service was started with it ignored.

    Background jobs of scripts are started with SIGINT ignored: a Ctrl-C in their terminal is meant
    for another program.
    """
    is_ours = signal.getsignal(signal.SIGINT) != signal.SIG_IGN
    return [signal.SIGTERM, signal.SIGINT] if is_ours else [signal.SIGTERM]
