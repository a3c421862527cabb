"""Read picture files of users: untrusted bytes in, pixels out.

`reading` and what it imports need Pillow, and belong into a child process. `errors` and `tiles` are for servers too.
"""
