"""Writes base + adapter as GGUF for llama.cpp, Ollama and LM Studio, in one pass. Called by the export job."""
