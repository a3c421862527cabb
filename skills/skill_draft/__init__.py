"""The draft skill: a draft language model over gRPC."""

VERSION = "2.16.0"
IMAGE = f"sarai-skill-draft:v{VERSION.rpartition('.')[0]}"
