"""The ops, by family. Importing this package fills the registry."""

from . import (
    activation,
    arithmetic,
    attention,
    elementary,
    foreach,
    indexing,
    join,
    leaf,
    logic,
    loss,
    matmul,
    norm,
    random,
    reduce,
    softmax,
    view,
)

__all__ = [
    "activation",
    "arithmetic",
    "attention",
    "elementary",
    "foreach",
    "indexing",
    "join",
    "leaf",
    "logic",
    "loss",
    "matmul",
    "norm",
    "random",
    "reduce",
    "softmax",
    "view",
]
