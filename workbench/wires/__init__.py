"""How numbers travel between ranks. One file each; `WIRES` is the only list of them."""

from workbench.wires.base import Wire
from workbench.wires.float32 import Float32

WIRES: dict[str, type[Wire]] = {
    "float32": Float32,
}

__all__ = ["WIRES", "Float32", "Wire"]
