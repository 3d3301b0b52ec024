"""A model of this library through lm-evaluation-harness, offline, on two tiny tasks made here.

    pip install "imadarem[eval]"
    python scripts/harness_check.py [MODEL]

Writes a task with choices (log-likelihood) and one with free answers (generation) to a temporary
folder, runs the harness's own command line on them, and prints its table. Exits with 1 unless both
tasks come back with a figure. MODEL is what ``--model`` takes everywhere; the default is a model of
characters with random weights.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

from imadarem import ImplicitRefinementConfig, ImplicitRefinementModel
from imadarem.tokenizers import CharTokenizer

ROWS = [{"question": "two and two are", "choices": [" four", " five"], "answer": 0}] * 3
TASK = """task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: {file}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{question}}}}"
"""
CHOICES = """doc_to_choice: choices
doc_to_target: answer
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
ANSWERS = """doc_to_target: "{{choices[answer]}}"
generation_kwargs: {until: ["."], max_gen_toks: 6}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        model = sys.argv[1] if len(sys.argv) > 1 else random_model(place / "model")
        data = place / "rows.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        kinds = (("choices", "multiple_choice", CHOICES), ("answers", "generate_until", ANSWERS))
        for name, kind, rest in kinds:
            text = TASK.format(name=f"tiny_{name}", kind=kind, file=data) + rest
            (place / f"{name}.yaml").write_text(text)
        os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
        os.environ.setdefault("HF_DATASETS_CACHE", str(place / "cache"))
        results = place / "results"
        sys.argv[1:] = ["run", "--model", "imadarem", "--model_args", f"pretrained={model}"]
        sys.argv += ["--tasks", "tiny_choices,tiny_answers", "--include_path", folder]
        sys.argv += ["--batch_size", "4", "--output_path", str(results)]
        from imadarem.harness import main as run

        run()
        (found,) = results.rglob("results_*.json")
        figures = json.loads(found.read_text())["results"]
    wanted = {"tiny_choices": "acc,none", "tiny_answers": "exact_match,none"}
    return int(not all(name in figures[task] for task, name in wanted.items()))


def random_model(folder: Path) -> str:
    """The folder of a small model of characters."""
    tokenizer = CharTokenizer.from_corpus(["abcdefghijklmnopqrstuvwxyz ."])
    config = ImplicitRefinementConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_layers=1, num_heads=2, length_mode="drawn"
    )
    ImplicitRefinementModel(config, tokenizer=tokenizer).save_pretrained(folder)
    return str(folder)


if __name__ == "__main__":
    raise SystemExit(main())
