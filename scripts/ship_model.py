"""Put a trained model into the package, its weights in half precision.

    python scripts/ship_model.py runs/judge/model smiles

The model card in the package stays; write the run's commands and figures into it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from imadarem import ImplicitRefinementModel
from imadarem.checkpoint import save_tensors
from imadarem.model_folder import WEIGHTS
from imadarem.pretrained import SHIPPED


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", help="the folder of a trained model")
    parser.add_argument("name", choices=sorted(SHIPPED), help="in the package")
    options = parser.parse_args()
    model, folder = (
        ImplicitRefinementModel.from_pretrained(options.model),
        Path(SHIPPED[options.name]),
    )
    model.save_pretrained(folder)
    halved = {name: weight.to(torch.float16) for name, weight in model.student_weights().items()}
    save_tensors(halved, folder / WEIGHTS)
    again = ImplicitRefinementModel.from_pretrained(options.name)
    size = sum(weight.numel() for weight in halved.values())
    worst = max(
        float((a - b).abs().max())
        for a, b in zip(
            model.student_weights().values(), again.student_weights().values(), strict=True
        )
    )
    print(f"{size:,} parameters in {folder / WEIGHTS}, rounded by at most {worst:.1e}")


if __name__ == "__main__":
    main()
