"""The vision process: reads image files, and encodes images to rows with the vision tower. The server starts it.

`limits` is for the server too; everything else needs Pillow or llama.cpp.
"""
