"""The engine: one process, one thread, one llama context.

Read in this order: `messages` (what the server and the engine exchange), `sequence` (the state of one answer),
`scheduler` (what runs in the next step), `cells` (the KV cache as a log), `engine` (the loop that ties them together).
`binding` is the only file that imports llama_cpp.
"""
