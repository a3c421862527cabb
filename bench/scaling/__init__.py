"""Autoscaling in virtual time: our policy, an oracle and what others do, over the same replicas and loads."""
