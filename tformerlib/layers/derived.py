"""Buffers that follow from sizes alone: never saved, and right again after a model was built without memory."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Derived(nn.Module):
    """A module with tables that are computed, not learned: offsets, indices, sinusoids.

    Built on "meta" a model has shapes and no content. `to_empty` gives it memory with nothing in it, and
    `load_state_dict(assign=True)` only what was saved; then the tables are computed anew, where the weights are.
    """

    def derive(self, name: str, make: Callable[[], Tensor]) -> None:
        """Registers a table, computed by `make`."""
        if "_tables" not in self.__dict__:
            self._tables: dict[str, Callable[[], Tensor]] = {}
            self.register_load_state_dict_post_hook(lambda module, _: module.compute_missing())
        self._tables[name] = make
        self.register_buffer(name, make(), persistent=False)

    def compute_missing(self) -> None:
        """Computes tables that are still on "meta" although weights are not."""
        device = next((p.device for p in self.parameters() if not p.is_meta), None)
        for name, table in self._present():
            if table.is_meta and device is not None:
                self._compute(name, device, table.dtype)

    def _present(self) -> list[tuple[str, Tensor]]:
        names = self.__dict__.get("_tables", {})
        return [(name, table) for name, table in self._buffers.items() if name in names and table is not None]

    def _compute(self, name: str, device: torch.device, dtype: torch.dtype) -> None:
        with torch.device(device):
            self._buffers[name] = self._tables[name]().to(dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        without = [name for name, table in self._present() if table.is_meta]
        super()._apply(fn, recurse)
        for name in without:
            table = self._buffers[name]
            if table is not None and not table.is_meta:
                self._compute(name, table.device, table.dtype)
        return self
