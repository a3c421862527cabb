"""The pool of a skill's replicas: who gets a call, what a failure means, and who waits.

`state` decides and does nothing; `replica_set` does and decides nothing; `answer` is the way of one call.
"""
