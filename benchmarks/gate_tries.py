"""What might make a gate pay at few passes: five tries, each trained for as long as the base.

    python benchmarks/gate_tries.py --corpus TOKENS --json tries.jsonl
    python benchmarks/gate_tries.py --corpus TOKENS --only gate light --passes 6

``TOKENS`` is a folder that ``imadarem data`` or ``imadarem train`` has prepared. Every variant
is a refiner of 3 blocks that draws blanks by themselves; data, optimiser, rate and average are
those of ``molecule_baselines.py``. All train for the same CPU seconds on one core: first
``--base-seconds`` on tokens alone, whose weights are shared where the network is the same, then
``--seconds`` with the gate. The gate is then calibrated on held-out canvases, as ``imadarem
train`` does it. One thing differs from *gate* in each variant:

- *tokens*: no gate;
- *light*: a second gate, read off the first block alone; see :class:`SecondPass`;
- *carry*: the last pass's state goes into the next one (Loopholing, arXiv:2510.19304); in
  training the state of a first pass over the same canvas, without a graph, for half of the
  batches;
- *self-conditioning*: the same with the last pass's probabilities (arXiv:2208.04202), from the
  shared weights on (*carry* and *joint* train their own base, for as long);
- *mistakes-0.1*, *mistakes-0.3*: the data is asked for behind the model's own tokens and in the
  blanks between them too, at this weight (SUNDAE, arXiv:2112.06749);
- *one-shot*, *two-step*, *policy*: the gate's canvases are filled in one pass, in two, or by
  the first steps of the sampler's own policy; in *gate* half in one pass and half by the policy;
- *joint*: a joint head of 256 beside the gate, its blanks as in ``molecule_baselines.py``.

Rows named ``second pass`` and ``light pass`` read the gate on the canvas just written, before
the next draw; a light pass costs one block of the three and counts as a third of a pass. FCD is
to the MOSES test set and depends on ``n``: compare within one table.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from molecule_baselines import batches, refiner, train
from pareto import reference
from torch import Tensor, nn

from imadarem import ImplicitRefinementConfig, ImplicitRefinementModel
from imadarem.canvas import Canvas
from imadarem.data.corpus import TokenCorpus
from imadarem.evaluation.gate_report import gate_report
from imadarem.evaluation.molecules import Reference, evaluate_molecules
from imadarem.nn import RefinementOutput
from imadarem.nn.heads import RefineGate
from imadarem.sampling.engine import Widths, refine_all
from imadarem.sampling.noise import row_seeds
from imadarem.sampling.policies import Ancestral, Decision, Gate, PassView, Policy, policy_from_name
from imadarem.sampling.refine import Step
from imadarem.sampling.samples import Samples
from imadarem.tokenizers import load_tokenizer
from imadarem.training.objective import LossTerms, Objective, TrainingCanvas
from imadarem.training.validation import fit_gate_calibration, validate

BLOCKS = 3
#: Share of the rows that train the gate, once it is trained.
GATE_SHARE = 0.5
#: Held-out rows on which the gate is calibrated, and others on which it is judged.
CALIBRATED_ON, JUDGED_ON = 200, 300


class LightGate(ImplicitRefinementModel):
    """A refiner with a second gate that reads the first block alone."""

    def __init__(self, config: ImplicitRefinementConfig, tokenizer: Any = None) -> None:
        super().__init__(config, tokenizer)
        self.light = RefineGate(config.hidden_size, config.gate_bias_init)

    def short(self) -> ImplicitRefinementModel:
        """The same weights as a model of one block whose gate is the light one.

        Its settings are its own, and so is the calibration of its gate.
        """
        short = copy.copy(self)
        parts = {"blocks": nn.ModuleList([self.blocks[0]]), "gate": self.light}
        short._modules = {**self._modules, **parts}
        short.config = replace(self.config, num_layers=1)
        return short


class JudgedBy(nn.Module):
    """A model whose gate is that of another."""

    def __init__(self, model: nn.Module, judge: nn.Module) -> None:
        super().__init__()
        self.model, self.judge = model, judge

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **known: Any
    ) -> RefinementOutput:
        output: RefinementOutput = self.model(input_ids, attention_mask, **known)
        gate_logits = self.judge(input_ids, attention_mask).gate_logits
        return output._replace(gate_logits=gate_logits)


@dataclass(frozen=True, kw_only=True)
class Tried(Objective):
    """The objective with what is tried.

    Args:
        canvases: ``mixed`` as in :class:`Objective`, ``one-shot``, ``two-step`` or ``policy``.
        mistakes: Weight of the token term on rows that show tokens of the model.
    """

    canvases: str = "mixed"
    mistakes: float = 0.0

    def __call__(
        self,
        network: nn.Module,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        generator: torch.Generator,
        rollout: nn.Module | None = None,
    ) -> LossTerms:
        if self.config.joint_size:
            return super().__call__(network, input_ids, attention_mask, generator, rollout)
        batch = self.corrupt(input_ids, attention_mask, generator)
        if self.on_policy_share > 0:
            batch = self.fill(batch, network, generator)
        canvas, known = batch.canvas, self._known(network, batch, generator)
        terms = self.score(network(canvas.ids, canvas.attention_mask, **known), batch)
        rows = batch.judged.any(dim=1)
        if isinstance(network, LightGate) and bool(rows.any()):
            judged = batch.judged[rows]
            wrong = (canvas.ids != batch.targets)[rows][judged].float()
            light = network.short()(canvas.ids[rows], canvas.attended[rows])
            term = F.binary_cross_entropy_with_logits(light.gate_logits[judged], wrong)
            terms = terms._replace(total=terms.total + self.config.gate_weight * term)
        return terms

    def fill(
        self,
        batch: TrainingCanvas,
        network: nn.Module,
        generator: torch.Generator,
        stop: int | None = None,
    ) -> TrainingCanvas:
        if self.canvases == "mixed" or stop is not None:
            return super().fill(batch, network, generator, stop)
        if self.canvases == "policy":
            last = int(
                torch.randint(1, self.config.max_refinement_steps + 1, (), generator=generator)
            )
            return super().fill(batch, network, generator, last)
        steps = {"one-shot": 1, "two-step": 2}[self.canvases]
        tied = (~batch.blank).nonzero().squeeze(1)
        rows = tied[torch.randperm(len(tied), generator=generator)]
        rows = rows[: round(self.on_policy_share * len(tied))]
        filled = self._roll_out(batch.canvas, rows, network, Ancestral(), steps, steps, generator)
        filled = filled.remask(self._some_of(filled.written & batch.canvas.open, rows, generator))
        return replace(batch, canvas=filled, judged=batch.canvas.open & filled.written)

    def score(self, output: RefinementOutput, batch: TrainingCanvas) -> LossTerms:
        terms = super().score(output, batch)
        shown = batch.judged.any(dim=1, keepdim=True)
        asked = (batch.judged | batch.canvas.open) & shown
        if self.mistakes == 0.0 or not bool(asked.any()):
            return terms
        term = F.cross_entropy(output.logits[asked].float(), batch.targets[asked])
        return terms._replace(total=terms.total + self.mistakes * term)

    def _known(
        self, network: nn.Module, batch: TrainingCanvas, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """What a first pass says, for half of the batches."""
        config = self.config
        if not (config.carry or config.self_conditioning):
            return {}
        if torch.rand((), generator=generator) < 0.5:
            return {}
        with torch.no_grad():
            first: RefinementOutput = network(batch.canvas.ids, batch.canvas.attention_mask)
        if first.carry is not None:
            return {"carry": first.carry}
        return {"prev_probs": first.logits.float().softmax(dim=-1)}


class SecondPass:
    """The default gate, read on the canvas just written and not in the pass that draws next.

    A step of the loop either draws, in a whole pass, or judges what stands and re-masks as
    :class:`Gate` does. Draws follow the schedule among themselves, and as many of them are
    judged as the budget allows, later ones first. It keeps the number of the coming step
    between a pass and the next: no row leaves before the last step, so a batch goes through
    the plan from its beginning to its end.

    Args:
        model: Draws, and judges too where there is no ``light`` gate.
        budget: Passes, at most.
        light: Judges by its first block alone.
    """

    refines = True
    uses_teacher = False

    def __init__(
        self, model: ImplicitRefinementModel, budget: int, light: nn.Module | None
    ) -> None:
        self.model, self.light, self.rule = model, light, Gate()
        self.cost = 1.0 if light is None else 1.0 / BLOCKS
        draws = 2
        while draws + 1 + self.cost * (draws - 1) <= budget:
            draws += 1
        self.draws, judged = draws, int((budget - draws) / self.cost)
        # All draws but the last can be judged, and where that is too much, not the first ones.
        first = max(draws - 1 - judged, 0)
        self.plan = [False]
        for draw in range(1, draws):
            self.plan += [True, False] if draw > first else [False]
        self.coming = 0

    @property
    def passes(self) -> float:
        """Passes that a row takes."""
        return self.draws + self.cost * sum(self.plan)

    def network(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **known: Any
    ) -> RefinementOutput:
        """One step's reading: a whole pass, or the light gate."""
        if self.light is None or not self.plan[self.coming]:
            output: RefinementOutput = self.model(input_ids, attention_mask, **known)
            return output
        seen: RefinementOutput = self.light(input_ids, attention_mask)
        return seen

    @torch.no_grad()
    def sample(
        self, count: int, seed: int, on_step: Callable[[Tensor, Step], None] | None = None
    ) -> Samples:
        """Rows drawn by the plan, as ``model.sample`` draws them."""
        model, seeds = self.model, row_seeds(count, seed)
        rows = refine_all(
            self.network,
            Canvas.blank(model.canvas_lengths(count, None, seeds), model.special),
            seeds,
            model.sampling_settings(len(self.plan), policy=self),
            widths=Widths.of(model.config),
            on_step=on_step,
        )
        return Samples(rows, model.tokenizer, None)

    def __call__(self, view: PassView) -> Decision:
        judging = self.plan[view.step - 1]
        self.coming = view.step % len(self.plan)
        drawn = view.step - sum(self.plan[: view.step])
        count = (view.open | view.written).sum(dim=1)
        nowhere = torch.zeros_like(view.open)
        if judging:
            # No blank to fill; what goes back is drawn again in the steps that are left.
            seen = replace(view, open=nowhere, remaining=view.written.sum(dim=1))
        else:
            left = (count * (1.0 - drawn / self.draws)).floor().long()
            seen = replace(view, written=nowhere, remaining=left)
        return self.rule(seen)._replace(hold=torch.ones(len(count), dtype=torch.bool))


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What differs from the base, and whether the base's weights are of no use to it."""

    gate: bool = True
    light: bool = False
    alone: bool = False
    config: tuple[tuple[str, Any], ...] = ()
    objective: tuple[tuple[str, Any], ...] = ()


VARIANTS = {
    "gate": Variant(),
    "tokens": Variant(gate=False),
    "light": Variant(light=True),
    "carry": Variant(alone=True, config=(("carry", True),)),
    "self-conditioning": Variant(config=(("self_conditioning", True),)),
    "mistakes-0.1": Variant(objective=(("mistakes", 0.1),)),
    "mistakes-0.3": Variant(objective=(("mistakes", 0.3),)),
    "one-shot": Variant(objective=(("canvases", "one-shot"),)),
    "two-step": Variant(objective=(("canvases", "two-step"),)),
    "policy": Variant(objective=(("canvases", "policy"),)),
    "joint": Variant(
        alone=True,
        config=(("joint_size", 256),),
        objective=(("blank_share", 0.75), ("suffix_share", 0.5)),
    ),
}


def build(
    variant: Variant, tokenizer: Any, corpus: TokenCorpus, seed: int
) -> tuple[ImplicitRefinementModel, Tried]:
    torch.manual_seed(seed)
    config = replace(
        refiner(tokenizer, corpus, joint_size=0).config,
        num_layers=BLOCKS,
        stop_threshold=0.0,
        **dict(variant.config),
    )
    torch.manual_seed(seed)
    kind = LightGate if variant.light else ImplicitRefinementModel
    model = kind(config, tokenizer=tokenizer)
    if model.self_condition is not None:
        # So that the base's weights say what they said.
        nn.init.zeros_(model.self_condition.weight)
    objective = Tried(
        config=model.config,
        special=model.special,
        on_policy_share=GATE_SHARE,
        **dict(variant.objective),
    )
    return model, objective


def trained(
    model: ImplicitRefinementModel, objective: Tried, data: Any, seconds: float
) -> tuple[ImplicitRefinementModel, int]:
    """``seconds`` of one objective: the averaged model, and the steps it took."""

    def loss(ids: Tensor, inside: Tensor, step: int) -> Tensor:
        return objective(model, ids, inside, torch.Generator().manual_seed(step)).total

    averaged, steps = train(model, loss, data, seconds)
    assert isinstance(averaged, ImplicitRefinementModel)
    averaged.train()
    return averaged, steps


def taught(
    variant: Variant, tokenizer: Any, corpus: TokenCorpus, options: argparse.Namespace
) -> tuple[ImplicitRefinementModel, Tried, list[int]]:
    """A variant after both parts of its training, and the steps of each."""
    data = batches(corpus, options.batch_size, tokenizer.pad_token_id)
    model, objective = build(variant, tokenizer, corpus, options.seed)
    plain = replace(objective, on_policy_share=0.0)
    shared: Path | None = None if variant.alone else options.base
    if shared is not None and shared.is_file():
        saved = torch.load(shared, weights_only=True)
        model.load_state_dict(saved["weights"], strict=False)
        first = int(saved["steps"])
        for _ in range(first):
            next(data)
    else:
        model, first = trained(model, plain, data, options.base_seconds)
        if shared is not None:
            weights = {k: v for k, v in model.state_dict().items() if not k.startswith("light.")}
            torch.save({"weights": weights, "steps": first}, shared)
    model, second = trained(model, objective if variant.gate else plain, data, options.seconds)
    return model.eval(), objective, [first, second]


def gate_figures(
    network: nn.Module, config: ImplicitRefinementConfig, objective: Tried, held_out: TokenCorpus
) -> dict[str, float]:
    """Calibrate the gate; AUROC and ECE on canvases of the default policy, all steps pooled."""
    if objective.canvases != "mixed":
        objective = replace(objective, canvases="mixed")
    objective = replace(objective, config=config)
    rows = held_out.subset(np.arange(CALIBRATED_ON))
    fit_gate_calibration(network, objective, rows).apply(config)
    found = gate_report(
        network,
        held_out.subset(np.arange(CALIBRATED_ON, CALIBRATED_ON + JUDGED_ON)),
        objective.special,
        policy=policy_from_name(None, config),
        steps=config.max_refinement_steps,
        gate_slope=config.gate_progress_slope,
    ).pooled
    return {"auroc": found.auroc, "ece": found.ece, "wrong": found.wrong, "flagged": found.flagged}


def ways(
    variant: Variant, model: ImplicitRefinementModel, light: nn.Module | None
) -> dict[str, Callable[[int], tuple[Policy | str, float]]]:
    """How the variant is sampled: name → budget → policy, passes."""

    def named(name: str) -> Callable[[int], tuple[Policy | str, float]]:
        return lambda budget: (name, float(budget))

    def second(judge: nn.Module | None) -> Callable[[int], tuple[Policy | str, float]]:
        def policy(budget: int) -> tuple[Policy, float]:
            found = SecondPass(model, budget, judge)
            return found, found.passes

        return policy

    order = "left-to-right" if model.config.joint_size else "confidence"
    found = {"gate": named("gate")} if variant.gate else {}
    found |= {order: named(order), "ancestral": named("ancestral")}
    if variant == VARIANTS["gate"]:
        found["second pass"] = second(None)
    if light is not None:
        found["light pass"] = second(light)
    return found


def write(
    model: ImplicitRefinementModel,
    policy: Policy | str,
    count: int,
    budget: int,
    seed: int,
    slope: float | None = None,
) -> tuple[list[str], float]:
    """``count`` molecules and the CPU seconds they took."""
    began, config = time.process_time(), model.config
    if slope is not None:
        model.config = replace(config, gate_progress_slope=slope)
    try:
        if isinstance(policy, SecondPass):
            samples = policy.sample(count, seed)
        else:
            samples = model.sample(count, steps=budget, policy=policy, seed=seed)
        texts = samples.texts
    finally:
        model.config = config
    return texts, time.process_time() - began


def measure(
    name: str,
    tokenizer: Any,
    corpora: tuple[TokenCorpus, TokenCorpus],
    target: Reference,
    options: argparse.Namespace,
) -> Iterator[dict[str, Any]]:
    """Train a variant; a record of its training and gate, and one for each row of samples."""
    variant, (corpus, held_out) = VARIANTS[name], corpora
    model, objective, steps = taught(variant, tokenizer, corpus, options)
    about: dict[str, Any] = {"variant": name, "seed": options.seed, "steps": steps}
    about |= {"seconds": [options.base_seconds, options.seconds]}
    rows = held_out.subset(np.arange(CALIBRATED_ON, CALIBRATED_ON + JUDGED_ON))
    judgeless = replace(model.config, use_refine_gate=False)
    plain = replace(objective, config=judgeless, on_policy_share=0.0, canvases="mixed")
    about["bound"] = validate(model, plain, rows).loss
    light = model.short() if isinstance(model, LightGate) else None
    if variant.gate:
        about |= gate_figures(model, model.config, objective, held_out)
    if light is not None:
        figures = gate_figures(JudgedBy(model, light), light.config, objective, held_out)
        about |= {f"light_{key}": value for key, value in figures.items()}
    yield about
    for budget in options.passes:
        for way, policy_at in ways(variant, model, light).items():
            if options.policies and way not in options.policies:
                continue
            policy, passes = policy_at(budget)
            slope = light.config.gate_progress_slope if light and way == "light pass" else None
            texts, cpu = write(model, policy, options.n, budget, options.seed, slope)
            report = evaluate_molecules(texts, reference=target, fcd=True, processes=1)
            yield {
                "variant": name,
                "policy": way,
                "budget": budget,
                "passes": passes,
                "n": options.n,
                "seed": options.seed,
                "fcd": report.fcd,
                "filters": report.filters,
                "unique": report.unique,
                "int_div": report.int_div,
                "cpu": cpu,
            }


def shown(record: dict[str, Any]) -> str:
    """A record as a line of the table."""
    if "policy" not in record:
        figures = [f"{key} {value:.3f}" for key, value in record.items() if "_" in key]
        gate = "".join(
            f", {key} {record[key]:.3f}" for key in ("auroc", "ece", "flagged") if key in record
        )
        extra = ", ".join(figures)
        return (
            f"{record['variant']}: {record['steps']} steps, bound {record['bound']:.3f} nats{gate}"
            + (f"; {extra}" if extra else "")
        )
    return (
        f"{record['variant']:<18}{record['policy']:<14}{record['passes']:>7.2f}"
        f"{record['fcd']:>7.2f}{record['filters']:>9.3f}{record['unique']:>8.3f}"
        f"{record['cpu']:>7.1f}"
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--corpus", type=Path, required=True, help="prepared tokens")
    parser.add_argument("--base-seconds", type=float, default=150.0, help="CPU, tokens alone")
    parser.add_argument("--seconds", type=float, default=50.0, help="CPU, with the gate")
    parser.add_argument("--base", type=Path, help="file of the shared weights; made if missing")
    parser.add_argument("--policies", nargs="+", help="names of the rows; default: all")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--passes", nargs="+", type=int, default=[4, 6, 12])
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also append the records to this file")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    tokenizer = load_tokenizer(options.corpus / "tokenizer")
    corpora = tuple(TokenCorpus.load(options.corpus / part) for part in ("train", "valid"))
    target = reference()
    # No column for the nearest neighbour, which takes longest against the whole test set.
    target = replace(target, fingerprints=target.fingerprints[:1000])
    print(
        f"{'variant':<18}{'policy':<14}{'passes':>7}{'FCD':>7}{'filters':>9}{'unique':>8}"
        f"{'CPU s':>7}"
    )
    for name in options.only:
        for record in measure(name, tokenizer, (corpora[0], corpora[1]), target, options):
            print(shown(record), flush=True)
            if options.json is not None:
                with options.json.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
