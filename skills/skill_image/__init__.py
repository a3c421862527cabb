"""The image skill: converts any picture to a form that a vision model can use directly."""

VERSION = "0.1.0"
"""The version of this skill."""
IMAGE = f"sarai-skill-image:v{VERSION.rpartition('.')[0]}"
"""The container image of this version."""
