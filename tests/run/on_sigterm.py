"""A flow that sets a handler of SIGTERM at import, for its clean-up."""

from __future__ import annotations

import signal

from tests.run.flows import get_flow


def clean_up(number, _frame):
    print("cleaned up after", signal.Signals(number).name, flush=True)
    raise KeyboardInterrupt


signal.signal(signal.SIGTERM, clean_up)
flow = get_flow()
