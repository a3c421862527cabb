"""The image skill: converts any picture to a form that a vision model takes as it is."""

VERSION = "0.1.0"
