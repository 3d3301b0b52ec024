"""Train many, infer few: unrolled training, halting, edits, memory and augmentation."""
