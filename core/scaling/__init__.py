"""Autoscaling: how many replicas are wanted, and those who are told."""
