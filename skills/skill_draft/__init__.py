"""The draft skill: a draft language model over gRPC."""

VERSION = "2.16.0"
