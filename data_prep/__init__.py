"""Programs that turn a corpus on disk into manifests, one file a corpus.

They stand at the edge: each imports `blsp` and nothing else of this project, and no module of
`blsp` imports them.
"""
