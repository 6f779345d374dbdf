"""``bytewax-redis-state doctor``: one file for each thing that it looks at.

===================  ==========================================================
file                 noun
===================  ==========================================================
command.py           the options, and which report they ask for
directory_report.py  ``doctor DIR``: a recovery directory of stock Bytewax
verify_report.py     ``doctor --verify``: a flow in Redis
acl_report.py        ``doctor --acl``: the ACL rules of a Redis user
===================  ==========================================================
"""
