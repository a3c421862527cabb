"""The pool of a skill's replicas: which one gets a call, what a failure means, and which calls wait.

`state` decides without acting; `replica_set` acts without deciding; `answer` takes one call through its attempts.
"""
