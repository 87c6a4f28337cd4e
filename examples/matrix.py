"""Linear algebra with numpy. Wrong shapes are the caller's mistake, and are told so."""

from __future__ import annotations

import numpy as np

import pitwarden

app = pitwarden.App()


@app.command
def solve(a: list[list[float]], b: list[float]) -> list[float]:
    """The x of a·x = b, for a square a."""
    matrix, right = _array("a", a, dimensions=2), _array("b", b, dimensions=1)
    rows, columns = matrix.shape
    if rows != columns:
        raise pitwarden.InvalidArgument(f"a: expected a square matrix, got {rows}×{columns}")
    if right.shape[0] != rows:
        raise pitwarden.InvalidArgument(f"b: expected {rows} numbers, one for each row of a, got {right.shape[0]}")
    try:
        return [float(x) for x in np.linalg.solve(matrix, right)]
    except np.linalg.LinAlgError:
        raise pitwarden.FailedPrecondition("a: expected a matrix of full rank, got a singular one") from None


@app.command
def svd(rows: list[list[float]]) -> dict[str, object]:
    """Singular values, largest first, with the left and right singular vectors: rows = u·diag(s)·vt."""
    u, s, vt = np.linalg.svd(_array("rows", rows, dimensions=2), full_matrices=False)
    return {"u": u.tolist(), "s": s.tolist(), "vt": vt.tolist()}


def _array(name: str, value: object, dimensions: int) -> np.ndarray:
    kind = "a matrix: rows of numbers, all of one length" if dimensions == 2 else "a list of numbers"
    try:
        array = np.array(value, dtype=float)
    except (TypeError, ValueError):
        raise pitwarden.InvalidArgument(f"{name}: expected {kind}") from None
    if array.ndim != dimensions or array.size == 0:
        shape = "×".join(str(length) for length in array.shape) or "a single number"
        raise pitwarden.InvalidArgument(f"{name}: expected {kind}, got {shape}")
    if not np.isfinite(array).all():
        raise pitwarden.InvalidArgument(f"{name}: expected finite numbers")
    return array
