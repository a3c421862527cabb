"""Build and maintenance tools: set-up, the lock files, the llama.cpp wheel, generators.

Everything that runs before the virtual environment is filled uses only the standard library.
"""
