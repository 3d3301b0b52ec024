"""Where a model of a name lies: a folder, the package, or the hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imadarem.config import MODEL_TYPE, ImplicitRefinementConfig
from imadarem.errors import CheckpointError
from imadarem.files import load_json

CARD = "README.md"
#: Arguments of from_pretrained that are the hub's.
HUB_KEYS = ("revision", "token", "cache_dir", "local_files_only", "force_download")
#: Models that come with the package, by the name that from_pretrained takes.
_PACKAGE = Path(__file__).parent / "shipped"
SHIPPED = {
    "default": _PACKAGE / "smiles",
    "smiles": _PACKAGE / "smiles",
    "druglike": _PACKAGE / "druglike",
    "selfies": _PACKAGE / "selfies",
    "sudoku": _PACKAGE / "sudoku",
}
#: Pretrained masked language models that go by a name.
MASKED_LMS = ("antiberty",)


def find_folder(name: str, hub: Mapping[str, Any]) -> Path:
    """The folder of a model; one that is only on the hub is fetched.

    Args:
        name: A folder, a model in the package, or ``user/name`` on the hub.
        hub: Arguments of the hub's client, see :data:`HUB_KEYS`; others are ignored.
    """
    path = SHIPPED.get(name, Path(name))
    if path.is_dir():
        return path
    if name in MASKED_LMS:
        raise CheckpointError(
            f"{name!r} is a pretrained masked language model. Load it with "
            f"ImplicitRefinementModel.from_masked_lm({name!r})."
        )
    # "runs/model" could be a name on the hub; where runs/ exists it is a mistyped folder.
    is_path = path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1
    if is_path or path.parent.is_dir():
        raise CheckpointError(
            f"there is no folder {name!r}. Name a folder that save_pretrained() or a training "
            f"run wrote, {' or '.join(map(repr, SHIPPED))} for the models in the package, or "
            "'user/name' on the hub."
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, **{k: v for k, v in hub.items() if k in HUB_KEYS}))
    except Exception as error:  # the hub's client raises a dozen kinds
        reason = str(error).split("\n")[0]
        raise CheckpointError(f"{name!r} was not found locally or on the hub: {reason}") from None


def is_masked_lm(name: str) -> bool:
    """Whether a name is that of a masked language model, or of a folder that transformers wrote."""
    config = Path(name) / "config.json"
    if not config.is_file() or name in SHIPPED:
        return name in MASKED_LMS
    settings = load_json(config)
    kind = settings.get("model_type", MODEL_TYPE) if isinstance(settings, dict) else MODEL_TYPE
    return bool(kind != MODEL_TYPE)


def default_card(config: ImplicitRefinementConfig, parameters: int) -> str:
    """A model card that says what the model is; its trainer says how it came about."""
    return (
        "---\nlibrary_name: imadarem\nlicense: mit\ntags: [imadarem, masked-diffusion]\n---\n"
        f"# A masked-refinement language model\n\n{parameters:,} parameters, canvases of at most "
        f"{config.max_seq_len} tokens, {config.max_refinement_steps} refinement "
        "steps.\n\n```python\nfrom imadarem import ImplicitRefinementModel\n\n"
        'model = ImplicitRefinementModel.from_pretrained("PATH OR HUB ID")\n'
        "print(model.sample(4, seed=0).texts)\n```\n"
    )
