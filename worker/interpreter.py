"""What an attempt may set in the interpreter and the standard library: read before it, and put back after it.

Only what is put back by one plain call or assignment. What a module of the room sets when it is imported is the room's,
and stays: see `isolate.Baseline`.
"""

from __future__ import annotations

import gc
import json
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

_Setting = tuple[Callable[[], Any], Callable[[Any], Any]]


def _gc_on(on: bool) -> None:
    gc.enable() if on else gc.disable()


_SETTINGS: tuple[_Setting, ...] = (
    (sys.getrecursionlimit, sys.setrecursionlimit),
    (sys.getswitchinterval, sys.setswitchinterval),
    (sys.get_int_max_str_digits, sys.set_int_max_str_digits),
    (sys.gettrace, sys.settrace),
    (sys.getprofile, sys.setprofile),
    (threading.gettrace, threading.settrace),
    (threading.getprofile, threading.setprofile),
    (threading.stack_size, threading.stack_size),
    (gc.isenabled, _gc_on),
    (gc.get_threshold, lambda threshold: gc.set_threshold(*threshold)),
)

_ATTRIBUTES = (
    (sys, "argv"),
    (sys, "excepthook"),
    (sys, "unraisablehook"),
    (sys, "displayhook"),
    (threading, "excepthook"),
)
_LISTS = ((sys, "path"), (sys, "meta_path"), (sys, "path_hooks"))

_USED = (
    (time, ("monotonic", "time", "sleep", "process_time")),
    (json, ("dumps", "loads")),
    (pickle, ("dumps", "loads")),
    (signal, ("signal", "setitimer")),
    (os, ("open", "read", "write", "close", "dup2", "fstat", "stat", "kill", "fork", "waitpid", "waitid", "chdir")),
)
"""Functions that somebody may have replaced by a mock and not put back; the worker itself, or the next attempt, relies
on them. They are not put back one by one: whoever replaced them has done more."""

_NAMES = tuple((module, name) for module, names in _USED for name in names)


class Settings:
    """The settings as they are now."""

    def __init__(self) -> None:
        self._values = [get() for get, _ in _SETTINGS]
        self._attributes = [getattr(owner, name) for owner, name in _ATTRIBUTES]
        self._lists = [(getattr(owner, name), list(getattr(owner, name))) for owner, name in _LISTS]
        self._later = _later()
        self._used = [getattr(module, name) for module, name in _NAMES]

    def put_back(self) -> None:
        """Set again what is different now."""
        for (get, put), value in zip(_SETTINGS, self._values, strict=True):
            if get() != value:
                put(value)
        for (owner, name), value in zip(_ATTRIBUTES, self._attributes, strict=True):
            setattr(owner, name, value)
        for (owner, name), (found, items) in zip(_LISTS, self._lists, strict=True):
            setattr(owner, name, found)
            if found != items:
                found[:] = items
        if _later() != self._later:
            self._put_back_later()

    def replaced(self) -> str | None:
        """The first function of those that matter which is another one now."""
        for (module, name), function in zip(_NAMES, self._used, strict=True):
            if module.__dict__.get(name) is not function:
                return f"{module.__name__}.{name}"
        return None

    def _put_back_later(self) -> None:
        """Settings of modules that need not be loaded; one that was loaded since has its own defaults."""
        timeout, disabled, folder, context = self._later
        if (tempfile := sys.modules.get("tempfile")) is not None:
            tempfile.__dict__["tempdir"] = folder
        if (socket := sys.modules.get("socket")) is not None:
            socket.setdefaulttimeout(timeout)
        if (logging := sys.modules.get("logging")) is not None:
            logging.disable(disabled)
        if (decimal := sys.modules.get("decimal")) is not None:
            decimal.setcontext(decimal.DefaultContext.copy())
            for name, value in zip(_CONTEXT, context or (), strict=False):
                setattr(decimal.getcontext(), name, value)


_CONTEXT = ("prec", "rounding", "Emin", "Emax", "capitals", "clamp")


def _later() -> tuple[Any, ...]:
    socket, logging, tempfile, decimal = map(sys.modules.get, ("socket", "logging", "tempfile", "decimal"))
    context = decimal.getcontext() if decimal is not None else None
    return (
        socket.getdefaulttimeout() if socket is not None else None,
        logging.root.manager.disable if logging is not None else 0,
        tempfile.tempdir if tempfile is not None else None,
        tuple([getattr(context, name) for name in _CONTEXT]) if context is not None else None,
    )
