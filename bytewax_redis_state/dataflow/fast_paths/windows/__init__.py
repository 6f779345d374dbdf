"""Shards of window operators over the event clock: one object per key.

============================  ============================================================
file                          noun
============================  ============================================================
window_config.py              a step's clock, windows and functions, from the step tree
window_shard.py               the shard of a window step
window_aggregator.py          values into windows, and their end: the part for all windows
fixed_window_aggregator.py    tumbling and sliding windows
session_window_aggregator.py  session windows
key_windows.py                the windows of one key, and their snapshot
window_times.py               a cache of the times of fixed windows
window_timers.py              the timers: they foretell when a window closes
============================  ============================================================
"""
