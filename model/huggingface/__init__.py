"""The architectures of Hugging Face's transformers that compute what lehr computes: tables of names, a file each."""

from model.huggingface.architecture import Architecture, architecture_called, architecture_of
from model.huggingface.entry import Entry
from model.huggingface.gpt2 import GPT2
from model.huggingface.llama import LLAMA
from model.huggingface.qwen3 import QWEN3

ARCHITECTURES: tuple[Architecture, ...] = (LLAMA, QWEN3, GPT2)

__all__ = ["ARCHITECTURES", "Architecture", "Entry", "architecture_called", "architecture_of"]
