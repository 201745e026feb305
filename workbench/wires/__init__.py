"""How numbers travel between ranks. One file each; `WIRES` is the only list of them."""

from workbench.wires.base import Codec, Compressor, Wire
from workbench.wires.float32 import Float32
from workbench.wires.half import BFloat16, Float16
from workbench.wires.int8 import Int8
from workbench.wires.power_sgd import PowerSGD
from workbench.wires.top_k import TopK

WIRES: dict[str, type[Wire]] = {
    "float32": Float32,
    "float16": Float16,
    "bfloat16": BFloat16,
    "int8": Int8,
    "top-k": TopK,
    "power-sgd": PowerSGD,
}

__all__ = ["WIRES", "BFloat16", "Codec", "Compressor", "Float16", "Float32", "Int8", "PowerSGD", "TopK", "Wire"]
