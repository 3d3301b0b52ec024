"""A network as an ONNX file, run by ONNX Runtime in place of torch.

The loop, the draws and the policies stay what they are: only the pass is another. A joint head
is read token by token, which is no pass: the file gives what it reads, and torch runs it. A float32
file gives torch's logits to about 1e-5. An 8-bit one (``quantize_dynamic``: weights by tensor,
activations by the range of each batch) gives others, and as its ranges are those of a batch,
a row's result then depends a little on its batch.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from imadarem.checkpoint import digest, write_atomically
from imadarem.config import ImplicitRefinementConfig
from imadarem.errors import CheckpointError, ConfigError, MissingExtraError
from imadarem.nn import RefinementOutput, RefinementTransformer
from imadarem.nn.joint import JointHead, JointLogits
from imadarem.nn.memory import Retrieved
from imadarem.nn.walk import PackedHead, PackedJoint

if TYPE_CHECKING:
    from imadarem.refiner import ImplicitRefinementModel

__all__ = ["INT8_FILE", "ONNX_FILE", "OnnxNetwork", "export_onnx"]

ONNX_FILE = "model.onnx"
INT8_FILE = "model.int8.onnx"
OPSET = 17
#: Where the file says which weights it was made from.
DIGEST = "imadarem.weights"


class OnnxNetwork:
    """A network's pass by ONNX Runtime, on the CPU; called as the network itself is.

    Args:
        model: The model whose network the file holds; its weights are checked against it.
        path: A file that :func:`export_onnx` wrote.
        threads: Threads of one pass; default as many as torch uses.

    Raises:
        MissingExtraError: ``onnxruntime`` is not installed.
        CheckpointError: There is no such file, or it was made from other weights.
    """

    #: No row's numbers depend on another row of the batch; those of 8 bits do on the range of
    #: all of them, and that is the same however often a row is in it.
    rows_alike = True

    def __init__(
        self, model: ImplicitRefinementModel, path: str | Path, *, threads: int | None = None
    ) -> None:
        runtime = _package("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.log_severity_level = 3
        if not Path(path).is_file():
            raise CheckpointError(
                f"there is no file {path}. Write it with: imadarem export --onnx FOLDER --model "
                "MODEL (with --int8 for 8 bits), and name that folder as the model."
            )
        try:
            session = runtime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        # The runtime's own exceptions have no common base.
        except Exception as error:
            reason = str(error).split("\n")[0]
            raise CheckpointError(f"{path} cannot be read: {reason}") from None
        known = session.get_modelmeta().custom_metadata_map.get(DIGEST)
        if known != digest(model.student_weights()):
            raise CheckpointError(
                f"{path} was made from other weights than the model beside it has. Export again."
            )
        self._session = session
        self.config, self._model = model.config, model
        self._outputs = _outputs(model.config)
        # As the file's own weights: those of the model when the file was opened.
        self._joint = PackedHead.of(model.joint)

    def __call__(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        prev_probs: Tensor | None = None,
        carry: Tensor | None = None,
        memory: Retrieved | None = None,
    ) -> RefinementOutput:
        """One pass, as :meth:`RefinementTransformer.forward` takes and gives it.

        Raises:
            ConfigError: A memory is given; no file holds one.
        """
        if memory is not None:
            raise ConfigError("an ONNX file looks at no memory; use the torch backend.")
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids, dtype=torch.bool)
        shape = input_ids.shape
        given = {"input_ids": input_ids, "attention_mask": attention_mask.bool()}
        # Zeros are what the first step knows: neither adds anything to the input.
        if self.config.self_conditioning:
            width = self.config.vocab_size
            given["prev_probs"] = torch.zeros(*shape, width) if prev_probs is None else prev_probs
        if self.config.carry:
            width = self.config.hidden_size
            given["carry"] = torch.zeros(*shape, width) if carry is None else carry
        feeds = {name: tensor.detach().cpu().numpy() for name, tensor in given.items()}
        arrays = self._session.run(None, feeds)
        found = {n: torch.from_numpy(a) for n, a in zip(self._outputs, arrays, strict=True)}
        joint: JointLogits | PackedJoint | None = None
        if self._model.joint is not None:
            joint = self._told(self._model.joint, found["joint_inputs"], found["logits"])
        return RefinementOutput(
            logits=found["logits"],
            gate_logits=found["gate_logits"],
            halt_logits=found.get("halt_logits"),
            carry=found.get("carry"),
            joint=joint,
        )

    def _told(self, head: JointHead, inputs: Tensor, logits: Tensor) -> JointLogits | PackedJoint:
        if self._joint is None:
            return JointLogits.of(head, inputs, logits)
        return self._joint.told(inputs, logits, head)


def export_onnx(model: ImplicitRefinementModel, folder: str | Path, *, int8: bool = False) -> Path:
    """Write a model's folder with its network as ``model.onnx`` in it.

    The file takes any number of rows and any length up to ``max_seq_len``.

    Args:
        model: In evaluation mode or not; on any device.
        folder: What ``save_pretrained`` writes goes there too: it can be named as the model.
        int8: Write ``model.int8.onnx`` beside it, with weights of 8 bits.

    Returns:
        The path of ``model.onnx``.

    Raises:
        MissingExtraError: ``onnx``, or for 8 bits ``onnxruntime``, is not installed.
        ConfigError: The network has a part that cannot be exported.
        CheckpointError: The folder cannot be written.
    """
    onnx = _package("onnx")
    if int8:
        _package("onnxruntime")
    config = model.config
    _check(config)
    network = RefinementTransformer(config, model.mask_token_id)
    network.load_state_dict(model.student_weights())
    model.save_pretrained(folder)
    path = Path(folder) / ONNX_FILE
    write_atomically(path, lambda aside: _trace(network.eval(), config, aside))
    known = onnx.load(path)
    known.metadata_props.add(key=DIGEST, value=digest(model.student_weights()))
    write_atomically(path, lambda aside: onnx.save(known, aside))
    if int8:
        write_atomically(path.with_name(INT8_FILE), lambda aside: _quantize(path, aside))
    return path


class _Pass(nn.Module):
    """A pass with tensors by position and no absent one, as an exporter needs it."""

    def __init__(self, network: RefinementTransformer, inputs: tuple[str, ...]) -> None:
        super().__init__()
        self.network, self.inputs = network, inputs

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        found: RefinementOutput = self.network(**dict(zip(self.inputs, tensors, strict=True)))
        joint = found.joint.inputs if isinstance(found.joint, JointLogits) else None
        every = (found.logits, found.gate_logits, found.halt_logits, found.carry, joint)
        return tuple(tensor for tensor in every if tensor is not None)


def _check(config: ImplicitRefinementConfig) -> None:
    """Refuse what a file of one pass cannot hold."""
    reasons = {
        "relations": "the layouts of its relations are chosen by the canvas's length",
        "memory": "its memory is another input of any size",
    }
    for name, reason in reasons.items():
        if getattr(config, name):
            raise ConfigError(
                f"this model cannot be exported ({name}): {reason}. Use the torch backend."
            )


def _inputs(config: ImplicitRefinementConfig) -> tuple[str, ...]:
    optional = [("prev_probs", config.self_conditioning), ("carry", config.carry)]
    return ("input_ids", "attention_mask", *(name for name, there in optional if there))


def _outputs(config: ImplicitRefinementConfig) -> tuple[str, ...]:
    optional = [
        ("halt_logits", config.halting),
        ("carry", config.carry),
        ("joint_inputs", config.joint_size > 0),
    ]
    return ("logits", "gate_logits", *(name for name, there in optional if there))


def _trace(network: RefinementTransformer, config: ImplicitRefinementConfig, path: Path) -> None:
    inputs, outputs = _inputs(config), _outputs(config)
    # A row with padding and blanks, so that every branch of a pass is taken.
    ids = torch.full((2, min(4, config.max_seq_len)), network.mask_token_id)
    inside = torch.ones_like(ids, dtype=torch.bool)
    inside[1, 1:] = False
    wide = {"prev_probs": config.vocab_size, "carry": config.hidden_size}
    rest = [torch.zeros(*ids.shape, wide[name]) for name in inputs[2:]]
    axes = {name: {0: "rows", 1: "length"} for name in (*inputs, *outputs)}
    axes |= {"halt_logits": {0: "rows"}} if "halt_logits" in outputs else {}
    # A carry is read and written: two tensors need two names.
    named = [f"next_{name}" if name in inputs else name for name in outputs]
    axes |= {f"next_{name}": axes[name] for name in outputs if name in inputs}
    with warnings.catch_warnings(), torch.no_grad():
        # The tracing exporter warns of every shape that it reads, and of its own age.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Pass(network, inputs),
            (ids, inside, *rest),
            str(path),
            input_names=list(inputs),
            output_names=named,
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )


def _quantize(source: Path, path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    root = logging.getLogger()
    level = root.level
    # It advises on the root logger to prepare the model first, which changes nothing here.
    root.setLevel(logging.ERROR)
    try:
        quantize_dynamic(source, path, weight_type=QuantType.QInt8)
    finally:
        root.setLevel(level)


def _package(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError:
        raise MissingExtraError(name, "onnx") from None
