"""The speech language model: encoder, adapter and the LLM that hears."""
