"""Autoscaling: how many replicas of a skill are wanted, and what makes them come and go."""
