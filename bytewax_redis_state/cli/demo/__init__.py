"""``bytewax-redis-state demo``: kill a flow, resume it, and compare it with one left alone.

===================  ===========================================================
file                 noun
===================  ===========================================================
command.py           the options, and the lines that a person sees
kill_test.py         the steps: start, kill, resume, compare
child_run.py         one run of the flow in a child process
clicks_flow.py       the example flow: its settings, and the results of a run
temporary_server.py  a Redis server that is started for the command and ended with it
===================  ===========================================================
"""
