"""Attention: the one function through which every model attends, and what goes with it."""

from .dot_product import attention
from .recording import record, record_attention
from .reference import attention_reference
from .weights import attention_weights

__all__ = ["attention", "attention_reference", "attention_weights", "record", "record_attention"]
