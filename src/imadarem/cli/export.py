"""``imadarem export``: a model in a form that other programs run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from imadarem.cli.console import note
from imadarem.cli.models import Switch, load_model

__all__ = ["export"]


def export(
    *,
    onnx: Annotated[Path, Parameter(name="--onnx")],
    model: str = "default",
    int8: Switch = False,
) -> None:
    """Write a model with its network as an ONNX file, for any number of rows and any length.

    **Examples**

    ```
    imadarem export --onnx exported
    imadarem sample --model exported --backend onnx -n 100
    imadarem export --onnx exported --model runs/mine/model --int8
    ```

    Args:
        onnx: The folder: `model.onnx` and all else that makes it a model's folder.
        model: A folder written by a training run, a name on the hub, "default" (molecules by
            SELFIES) or "smiles".
        int8: Also write `model.int8.onnx`, with weights of 8 bits: smaller, and its samples
            are not those of the model, but like them.
    """
    from imadarem.backends.onnx import INT8_FILE, export_onnx

    written = [export_onnx(load_model(model, "cpu"), onnx, int8=int8)]
    if int8:
        written.append(onnx / INT8_FILE)
    for path in written:
        note(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
