"""Hand-written Triton kernels. Importing this package decides once whether kernels run compiled or interpreted."""

from __future__ import annotations

from ..config import interpreted

interpreted()  # sets TRITON_INTERPRET, which triton reads at its first import
