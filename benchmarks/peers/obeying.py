"""A load process whose callers block, rather than await: see `benchmarks.load`."""

import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager

from benchmarks import usage
from benchmarks.orders import READY, Order, Window, say
from benchmarks.recorder import Recorder

Work = Callable[[Recorder], None]
"""Makes its calls until the window is over."""


def obey(prepared: Callable[[Order], AbstractContextManager[Work]]) -> None:
    """Reads the order, prepares, does the work once it is told when, and reports."""
    with prepared(Order.from_json(sys.stdin.readline())) as work:
        say(READY)
        recorder = Recorder(Window.from_json(sys.stdin.readline()))
        work(recorder)
    say(recorder.report(usage.peak_rss_bytes(os.getpid())).to_json())
