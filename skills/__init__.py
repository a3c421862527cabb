"""Skills: containers that answer over gRPC, each in a folder `skill_NAME`, and their contract."""
