"""Dumps of a state backend: all keys of one prefix to a checkpoint file, and back.

==================  ===========================================================================
file                noun
==================  ===========================================================================
checkpoint_file.py  the format of a checkpoint file
file_access.py      opening one, at a path or as an open file or pipe
progress_bar.py     how far a dump or a restore is
key_range.py        all keys of one prefix, as a dump reads and a restore writes them
restoration.py      a checkpoint file into a key range, in six steps
save.py             a key range into a checkpoint file
copy.py             a key range into another key range
dumpable.py         the methods of a state backend: checkpoint, restore, verify
==================  ===========================================================================

The public word is *checkpoint*: the method, the file, ``CheckpointInfo``. Recovery's checkpoint is
something else, the fold of the journal, so inside this package the work is called a dump.
"""
