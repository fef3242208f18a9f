"""What we accept though torch refuses it, with the reason."""

NUMBER = "a number stands for a tensor: the result is a constant"

EMPTY = "an image without channels gives one without channels"

ANYWHERE: dict[str, str] = {
    "(2, int64[3])": NUMBER,
    "(int64[3], 2)": NUMBER,
    "(2, 3)": NUMBER,
    f"[{', '.join(['1'] * 65)}]": "tensors may have more than 64 dimensions",
}
"""The sample, or part of it, as it is printed: whichever function it is given to."""

ACCEPTED: dict[str, dict[str, str]] = {
    "arange": {
        "(0, -3, 2)": "an empty range, as in NumPy",
        "(0, 3, -2)": "an empty range, as in NumPy",
        "(1549556900, 1549556828, 1989724)": "an empty range, as in NumPy",
    },
    "gather": {"(float32[2, 2], 1, int64[2, 2])": "an index out of range gives NaN: a kernel cannot raise"},
    "trace": {"(float32[3, 4, 5])": "of each matrix of a batch, as in NumPy"},
    "linalg.cross": {"(float32[5, 5, 3], float32[5, 3])": "operands broadcast, as in NumPy"},
    "nn.functional.max_pool1d": {"(float32[0, 10], kernel_size=1)": EMPTY},
    "nn.functional.max_pool3d": {"(float32[0, 1, 2, 10], kernel_size=1)": EMPTY},
    "masked_fill": {"(float32[2, 2], bool[], float32[1])": "the value broadcasts, as every operand does"},
}
"""OpInfo's name -> the sample, or part of it, as it is printed -> the reason."""


def accepted(name: str, sample: str) -> str | None:
    """Why we take this sample though torch refuses it; None if we should not."""
    for table in (ANYWHERE, ACCEPTED.get(name, {})):
        for part, reason in table.items():
            if part in sample:
                return reason
    return None
