"""The draft skill: a draft language model over gRPC."""

VERSION = "2.16.0"
"""The version of this skill, and of the distribution `sarai-skills`."""
IMAGE = f"sarai-skill-draft:v{VERSION.rpartition('.')[0]}"
"""The container image of this version."""
