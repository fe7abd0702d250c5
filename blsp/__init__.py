"""Give any open LLM ears by behaviour alignment."""
