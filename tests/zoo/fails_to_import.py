"""A module that cannot be imported, for want of another one."""

import no_such_module_anywhere  # type: ignore[import-not-found] # noqa: F401


def work() -> None:
    return None
