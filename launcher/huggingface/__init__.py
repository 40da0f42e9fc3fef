"""Reads Hugging Face folders, and writes their tokenizer files."""
