"""What Hugging Face's transformers calls the same arithmetic: one file per architecture, tables of names both ways."""

from model.huggingface.base import Architecture, Entry, architecture_called, architecture_of
from model.huggingface.gpt2 import GPT2
from model.huggingface.llama import LLAMA
from model.huggingface.qwen3 import QWEN3

ARCHITECTURES: tuple[Architecture, ...] = (LLAMA, QWEN3, GPT2)

__all__ = ["ARCHITECTURES", "Architecture", "Entry", "architecture_called", "architecture_of"]
