"""Sources and sinks of the flow, wrapped.

====================  ====================================================================
file                  noun
====================  ====================================================================
encoded_connector.py  the part that wrapped sources and sinks share: snapshots as bytes
source.py             a source with state
sink.py               a sink with state
gate.py               the gate that holds sources back
====================  ====================================================================
"""
