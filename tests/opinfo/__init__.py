"""torch's own OpInfo suite against flame_triton: values, gradients and refusals that we did not write.

torch ships a table of its operators with sample calls, erroneous calls and its own implementation as the judge
(torch.testing._internal.common_methods_invocations.op_db). `adapters` says how each of torch's calls becomes one of
ours; `draw` holds the rules by which a sample is out of scope; `check` compares.

    pytest tests/opinfo                                      a capped choice: references, and few interpreted kernels
    python -m tests.opinfo --device cuda --out report.json   every sample through compiled kernels, on all cores
"""
