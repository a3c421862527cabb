"""The replicas of a skill: which one gets a call, how they are, and who waits for one.

`ReplicaSet` is the room to begin in. It holds a `Member` for each replica and hands out a `Lease` for each attempt.
"""

from core.replicas.lease import Lease
from core.replicas.member import Member
from core.replicas.replica_set import ReplicaSet

__all__ = ["Lease", "Member", "ReplicaSet"]
