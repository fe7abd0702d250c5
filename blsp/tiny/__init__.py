"""The embedded default: a spoken world small enough for two CPU cores, and its foundation models.

Sentences come from a grammar, voices from eSpeak NG; a Whisper and a chat LLM trained on nothing
else lie in ``weights/``, so that every test and the quickstart run the real code on real models.
Nothing that holds here is claimed of real speech.
"""
