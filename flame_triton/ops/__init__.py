"""The ops, by family. Importing this package fills the registry."""

from . import elementwise, leaf, matmul, reduce, view
