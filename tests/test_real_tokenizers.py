"""Any tokenizer with a mask token: five kinds of the Hugging Face library, on real sentences."""

from __future__ import annotations

import re
from collections.abc import Callable
from statistics import median
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from imadarem.config import ImplicitRefinementConfig
from imadarem.data.corpus import collate
from imadarem.errors import ConfigError, DataError
from imadarem.model import ImplicitRefinementModel

# King James Version, Genesis 1 and Psalm 23; Carroll, "Alice's Adventures in Wonderland";
# Melville, "Moby-Dick": all in the public domain.
SENTENCES = """\
In the beginning God created the heaven and the earth.
And the earth was without form, and void.
And darkness was upon the face of the deep.
And God said, Let there be light: and there was light.
And God saw the light, that it was good.
And God divided the light from the darkness.
And God called the light Day, and the darkness he called Night.
And the evening and the morning were the first day.
And God called the firmament Heaven.
And the evening and the morning were the second day.
And God called the dry land Earth.
And God saw that it was good.
And the evening and the morning were the third day.
The LORD is my shepherd; I shall not want.
He maketh me to lie down in green pastures.
He leadeth me beside the still waters.
He restoreth my soul.
Thou preparest a table before me.
My cup runneth over.
And I will dwell in the house of the LORD for ever.
Alice was beginning to get very tired.
Oh dear! Oh dear! I shall be late!
Down went Alice after it.
The rabbit-hole went straight on like a tunnel.
Down, down, down.
Would the fall never come to an end?
Do cats eat bats? Do bats eat cats?
Curiouser and curiouser! cried Alice.
Who in the world am I?
Off with her head!
Begin at the beginning, said the King.
It was much pleasanter at home, thought poor Alice.
Call me Ishmael.
It is a way I have of driving off the spleen.
There is nothing surprising in this.
Meditation and water are wedded for ever.
Who ain't a slave? Tell me that.
I always go to sea as a sailor.
Such a portentous and mysterious monster roused all my curiosity.
The great flood-gates of the wonder-world swung open.
""".splitlines()

pytestmark = pytest.mark.filterwarnings("ignore:this tokenizer has no eos token")

SPECIALS = ["<pad>", "<mask>", "</s>", "<unk>"]
NAMES = {"pad_token": "<pad>", "mask_token": "<mask>", "eos_token": "</s>", "unk_token": "<unk>"}


def word_level() -> PreTrainedTokenizerFast:
    """Whole words; the vocabulary is too small for the text, so that ``<unk>`` is common."""
    backend = Tokenizer(models.WordLevel(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(vocab_size=40, special_tokens=SPECIALS, show_progress=False)
    backend.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **NAMES)


def bpe() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=SPECIALS, show_progress=False)
    backend.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **NAMES)


def unigram() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=SPECIALS, unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **NAMES)


def word_piece() -> PreTrainedTokenizerFast:
    """As BERT's: no token ends a sequence but ``[SEP]``."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    names = {role: f"[{role[:-6].upper()}]" for role in ("pad_token", "unk_token", "cls_token")}
    names |= {"sep_token": "[SEP]", "mask_token": "[MASK]"}
    trainer = trainers.WordPieceTrainer(
        vocab_size=140, special_tokens=list(names.values()), show_progress=False
    )
    backend.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def byte_level_bpe() -> PreTrainedTokenizerFast:
    """As GPT-2's, with the mask and pad tokens that such a tokenizer must be given."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")
    tokenizer.add_special_tokens({"mask_token": "<mask>", "pad_token": "<pad>"})
    return tokenizer


KINDS = [word_level, bpe, unigram, word_piece, byte_level_bpe]


def model_for(tokenizer: object, vocab_size: int) -> ImplicitRefinementModel:
    torch.manual_seed(0)
    config = ImplicitRefinementConfig(
        vocab_size=vocab_size, hidden_size=32, num_layers=2, num_heads=2, max_seq_len=48
    )
    return ImplicitRefinementModel(config, tokenizer)


def train(model: ImplicitRefinementModel, rows: list[list[int]], steps: int) -> list[float]:
    """Total loss of each step."""
    ids, inside = collate([torch.tensor(row).numpy() for row in rows], model.special.pad)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    losses = []
    model.train()
    for _ in range(steps):
        loss = model.loss(ids, inside, generator=generator).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    model.eval()
    return losses


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.__name__)
def trained(request):
    kind: Callable[[], PreTrainedTokenizerFast] = request.param
    tokenizer = kind()
    rows = [tokenizer.encode(text, add_special_tokens=False) for text in SENTENCES]
    model = model_for(tokenizer, len(tokenizer))
    train(model, rows[:12], steps=2)
    return SimpleNamespace(tokenizer=tokenizer, model=model, rows=rows)


def test_the_sentences_fit_the_canvas_and_the_vocabulary(trained):
    assert max(map(len, trained.rows)) < trained.model.config.max_seq_len
    assert max(map(max, trained.rows)) < len(trained.tokenizer)


def test_the_loss_falls_within_a_few_steps():
    tokenizer = bpe()
    rows = [tokenizer.encode(text, add_special_tokens=False) for text in SENTENCES]
    losses = train(model_for(tokenizer, len(tokenizer)), rows, steps=24)
    # From about ln 120 = 4.8 nats and the gate's share. One step may hide a sentence whole, or be
    # the first that is told its own beliefs: the median of four says where the loss is.
    assert median(losses[-4:]) < losses[0] - 0.5


def test_samples_hold_no_mask_and_no_special_token(trained):
    samples = trained.model.sample(8, seed=1)
    special = set(trained.tokenizer.all_special_ids)
    assert len(samples) == 8
    assert special >= {trained.tokenizer.mask_token_id, trained.tokenizer.pad_token_id}
    for row in samples.rows:
        assert len(row.ids) > 0
        assert special.isdisjoint(row.ids.tolist())
    for text in samples.texts:
        assert isinstance(text, str)
        assert not any(token in text for token in trained.tokenizer.all_special_tokens)


def test_holes_in_a_text_are_filled_around_what_is_given(trained):
    mask = trained.tokenizer.mask_token
    prompt = f"And God saw the {mask} {mask} that it was {mask}."
    given = trained.tokenizer.encode(prompt, add_special_tokens=False)
    holes = [i for i, token in enumerate(given) if token == trained.model.special.mask]
    assert len(holes) == 3
    samples = trained.model.infill([prompt, prompt], seed=2)
    for row in samples.rows:
        # No EOS may stand before a given token, so the row is as long as the prompt.
        filled = row.ids.tolist()
        assert len(filled) == len(given)
        assert [t for i, t in enumerate(filled) if i not in holes] == [
            t for t in given if t != trained.model.special.mask
        ]
        assert trained.model.special.mask not in filled
    assert mask not in samples[0]


def test_a_blank_is_the_tokenizers_own_mask_or_the_canonical_one(trained):
    own = trained.tokenizer.mask_token
    ids = trained.model.encode_prompt(f"The {own}{own} is {own}")
    assert ids.count(trained.model.special.mask) == 3
    assert trained.model.encode_prompt(f"The <mask><mask> is {own}") == ids
    with pytest.raises(DataError, match=f"has no blank.*Write {re.escape(own)}"):
        trained.model.infill("The dog is my friend")


def test_a_tokenizer_that_names_no_mask_reads_the_canonical_one():
    letters = SimpleNamespace(
        mask_token_id=1,
        pad_token_id=0,
        eos_token_id=2,
        encode=lambda text, add_special_tokens: [3 + ord(c) - ord("a") for c in text],
    )
    model = model_for(letters, vocab_size=29)
    assert model.encode_prompt("a<mask><mask>c<mask>") == [3, 1, 1, 5, 1]


def test_saved_and_loaded_it_draws_the_same(trained, tmp_path):
    trained.model.save_pretrained(tmp_path)
    again = ImplicitRefinementModel.from_pretrained(tmp_path)
    assert again.special == trained.model.special
    assert again.tokenizer.get_vocab() == trained.tokenizer.get_vocab()
    assert again.sample(4, seed=3).texts == trained.model.sample(4, seed=3).texts
    prompt = f"The {trained.tokenizer.mask_token} is my {trained.tokenizer.mask_token}"
    expected = trained.model.infill(prompt, seed=3)
    assert again.infill(prompt, seed=3).texts == expected.texts


def test_a_model_folder_is_loaded_without_a_word(trained, tmp_path, capfd):
    trained.model.save_pretrained(tmp_path)
    capfd.readouterr()
    ImplicitRefinementModel.from_pretrained(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_a_trajectory_reads_in_the_tokenizers_tokens(trained):
    trajectory = trained.model.analyze_refinement_trajectory(n=1, seed=4)
    words = set(trained.tokenizer.get_vocab()) | {"[MASK]", "[EOS]", ""}
    assert set(trajectory[0].steps[-1].tokens) <= words
    assert "[MASK]" in trajectory.to_text()


def test_a_tokenizer_without_an_end_ends_at_sep():
    tokenizer = word_piece()
    with pytest.warns(UserWarning, match="sep token"):
        model = model_for(tokenizer, len(tokenizer))
    assert model.special.eos == tokenizer.sep_token_id


def test_three_ids_are_tokenizer_enough(tmp_path):
    ids = SimpleNamespace(mask_token_id=1, pad_token_id=0, eos_token_id=2)
    model = model_for(ids, vocab_size=12)
    losses = train(model, [[3, 4, 5, 6]] * 8 + [[7, 8, 9]] * 8, steps=8)
    assert losses[-1] < losses[0] - 0.5
    samples = model.sample(6, seed=5)
    drawn = [row.ids.tolist() for row in samples.rows]
    assert all(set(row) <= set(range(3, 12)) for row in drawn)
    with pytest.raises(ConfigError, match="cannot decode"):
        samples.texts  # noqa: B018
    with pytest.raises(ConfigError, match="cannot read texts"):
        model.infill("3 <mask> 5")
    (filled,) = model.infill([[3, 1, 1, 6]], seed=6).rows
    assert filled.ids[[0, 3]].tolist() == [3, 6]
    # Nothing to save but the ids, which stand in the config.
    model.save_pretrained(tmp_path)
    again = ImplicitRefinementModel.from_pretrained(tmp_path)
    assert [row.ids.tolist() for row in again.sample(6, seed=5).rows] == drawn
