"""Programs that score a checkpoint on a benchmark, one file a benchmark.

They stand at the edge: each imports `blsp` and nothing else of this project, and no module of
`blsp` imports them.
"""
