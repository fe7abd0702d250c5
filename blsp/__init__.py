"""Speech adapters for any open LLM, trained by behaviour alignment."""
