"""How a gradient becomes an update, and how a centre follows the mean of its workers."""

from workbench.recipes.outer import OUTERS, Nesterov, Outer, SlowMo

__all__ = ["OUTERS", "Nesterov", "Outer", "SlowMo"]
