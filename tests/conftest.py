"""What holds for all tests."""

import signal


def pytest_configure() -> None:
    """A shell's `&` has Ctrl-C ignored, by everything that is started from there; some tests are about it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
