"""Gluon kernels for sm_90: compiled only; each has a portable twin with the same contract."""
