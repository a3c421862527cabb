"""What builds and keeps the house: set-up, the lock file, the llama.cpp wheel, generators.

Everything that runs before the virtual environment is filled uses the standard library alone.
"""
