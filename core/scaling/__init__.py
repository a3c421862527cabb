"""Autoscaling: how many replicas of a skill are wanted, who is told, and what makes them come and go."""
