"""What servers of tests are made from: programs, certificates.

Servers that take over from each other are the fault harness's, `bytewax_redis_state.chaos.servers`.
"""
