"""Attention: the one function through which every model attends, and what goes with it."""

from .dot_product import attention, explain
from .recording import record, record_attention
from .reference import attention_reference
from .weights import attention_weights
from .window import window_attention

__all__ = [
    "attention",
    "attention_reference",
    "attention_weights",
    "explain",
    "record",
    "record_attention",
    "window_attention",
]
