"""Bytewax's own recovery directories: read and counted, and never written to.

====================  ===========================================================================
file                  noun
====================  ===========================================================================
directory.py          a recovery directory: its partitions, its resume epoch
partition.py          one of its SQLite files: opened, or copied and opened; its rows
partition_file.py     such a file, read by SQLite without a trace beside it
running_flow.py       a flow that runs on a directory, recognised by its locks
inventory.py          the rows of a directory, counted by step and by partition
resume_estimate.py    how long a resume takes, with Bytewax alone and with the state in Redis
inert_pickle.py       a look into a pickled state that runs nothing
====================  ===========================================================================
"""
