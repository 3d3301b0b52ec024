"""The contract of special ids, the built-in tokenizers, and five kinds of Hugging Face ones."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from imadarem.errors import CheckpointError, ConfigError, DataError, TokenizerError
from imadarem.tokenizers import (
    TOKENIZERS,
    CharTokenizer,
    SelfiesTokenizer,
    SmilesTokenizer,
    SpecialIds,
    load_tokenizer,
    special_ids,
    tokenizer_class,
)

# Molecules of the MOSES distribution (samples published with the benchmark).
DRUGLIKE = """
CC(C)c1noc(CN2CCn3c(nnc3C(F)(F)F)C2)n1 COc1cccc(OC)c1C(C)NC(=O)c1ccn(C(C)C)n1
Cc1scnc1CC(=O)N(C)Cc1c(F)cccc1F Cc1cccc(NC(=O)c2ccccc2SCc2ccccn2)n1
COc1ccc(C(=O)NCC(=O)N2CCCCC2)cc1OC Nc1cccc(OCCCCOc2ccc3c(c2)OCO3)c1
CC(Oc1cncc2c1CC(=O)CN2)c1ccccc1 O=C(NCc1cccc2c1OCO2)Nc1ccccn1
NS(=O)(=O)c1ccccc1C(=O)Oc1cccc2c1OCO2 Cc1c[nH]c(C(=O)C(C)OC(=O)C(C)C)c1
COc1cc(OC)cc(C(=O)NCc2cnnn2-c2ccccc2)c1 CC(C)C(NC(=O)c1cccs1)C(=O)NCC1CCCO1
Cn1nnnc1SC12CCOC1CCN(Cc1cccnc1)C2 Cc1[nH]nc(C(=O)NC(C)c2ccc(F)c(F)c2)c1N
COc1cccc(-c2c(C#N)cc(N)[nH]c2=O)c1 N#Cc1cccc(CSc2ncc3sccc3n2)c1Cl
Cc1cc(CNC(=O)c2ccc(CN3CCCC3=O)cc2)no1 COc1cccc(-c2c(NC(=O)OC(C)C)nnn2C)c1
CCCC1CN(C(=O)CCNc2ccccc2)CCO1 CC1=C2SC=CC2N(Cc2nnc3n2CCC3)CC1
CC(C)(C)NC(=O)CNC(=O)Cc1cccc(Br)c1 CC1CCC(NC(=O)Nc2ncc3c(n2)CC=C3)CC1
CCN(C(=O)C(C)c1cc(N)cc(OC)c1)c1ccccc1 CCN(Cc1cccc(C)c1)C(=O)c1ccncc1F
CCN(Cc1ccc(F)cc1)C(=O)NC(C)C(=O)NC1CC1 CC(NC(=O)N1CCOCC1(C)C)Oc1cccc2c1OCO2
CSc1ccc(NC(=O)N(C)CC(C)(CO)CO)cc1 CC1Nc2[nH]c(C(=O)Nc3nccc4c(N)n[nH]c34)nc2S1
COc1ccc(CNC(=O)C2CCCN(C(=O)N(C)C)C2)cc1 COc1ccc2c(c1)NC(N)(C(=O)Nc1ncccc1OC)C2
""".split()
# Charges, fragments, stereo centres, double-bond geometry, an isotope, and SMILES that
# start like SELFIES.
AWKWARD = """
[Na+].[Cl-] [nH]1cccc1 [O-]C(=O)C C[C@@H](N)C(=O)O C/C=C/C C/C=C\\C [13CH4] C[N+](C)(C)CC([O-])=O
""".split()
MOLECULES = DRUGLIKE + AWKWARD


@pytest.fixture(scope="module")
def selfies_tokenizer():
    return SelfiesTokenizer.from_corpus(MOLECULES)


def having(**ids):
    return SimpleNamespace(**ids)


# ---------------------------------------------------------------- special ids


def test_ids_are_read_as_the_tokenizer_gives_them():
    tokenizer = having(mask_token_id=4, pad_token_id=1, eos_token_id=2, all_special_ids=[1, 2, 4])
    # eos is the one special token that an output may hold.
    assert special_ids(tokenizer, 5) == SpecialIds(mask=4, pad=1, eos=2, banned=(1, 4))


def test_every_special_token_but_eos_is_banned():
    tokenizer = having(
        mask_token_id=9,
        pad_token_id=0,
        eos_token_id=2,
        bos_token_id=1,
        unk_token_id=3,
        cls_token_id=8,
        sep_token_id=7,
        all_special_ids=[5, None],
        added_tokens_decoder={6: having(special=True), 4: having(special=False)},
    )
    # All of 0 .. 9 but eos (2) and the ordinary added token (4).
    assert special_ids(tokenizer, 10).banned == (0, 1, 3, 5, 6, 7, 8, 9)


def test_a_sep_that_ends_sequences_is_not_banned():
    with pytest.warns(UserWarning, match="its sep token \\(id 3\\) ends a sequence"):
        ids = special_ids(having(mask_token_id=1, pad_token_id=0, sep_token_id=3), 5)
    assert ids == SpecialIds(mask=1, pad=0, eos=3, banned=(0, 1))


def test_without_eos_and_sep_there_is_no_end_and_a_warning():
    with pytest.warns(UserWarning, match="no eos token: every output fills its canvas"):
        ids = special_ids(having(mask_token_id=1, pad_token_id=0), 5)
    assert ids == SpecialIds(mask=1, pad=0, eos=None, banned=(0, 1))


def test_a_missing_pad_becomes_id_zero_with_a_warning():
    with pytest.warns(UserWarning, match="no pad token: id 0 is used"):
        ids = special_ids(having(mask_token_id=1, eos_token_id=2), 5)
    assert ids == SpecialIds(mask=1, pad=0, eos=2, banned=(0, 1))


def test_a_tokenizer_without_mask_is_told_how_to_get_one():
    with pytest.raises(TokenizerError, match="has no mask token, and refinement starts") as error:
        special_ids(having(pad_token_id=0, eos_token_id=2), 5)
    assert 'tokenizer.add_special_tokens({"mask_token": "<mask>"})' in str(error.value)
    assert "SelfiesTokenizer.from_corpus(...)" in str(error.value)


@pytest.mark.parametrize(
    ("mask", "pad", "eos", "roles", "mover"),
    [
        (1, 2, 2, "pad and eos share the token id 2", "pad"),
        (1, 1, 2, "mask and pad share the token id 1", "pad"),
        (1, 0, 1, "mask and eos share the token id 1", "mask"),
        (1, 1, 1, "mask and pad and eos share the token id 1", "pad"),
    ],
)
def test_a_collision_names_id_roles_and_remedy(mask, pad, eos, roles, mover):
    with pytest.raises(TokenizerError, match=roles) as error:
        special_ids(having(mask_token_id=mask, pad_token_id=pad, eos_token_id=eos), 5)
    assert f'add_special_tokens({{"{mover}_token": "<{mover}>"}})' in str(error.value)


def test_the_pad_fallback_may_not_hit_the_mask():
    with (
        pytest.warns(UserWarning, match="no pad token"),
        pytest.raises(TokenizerError, match="mask and pad share the token id 0"),
    ):
        special_ids(having(mask_token_id=0, eos_token_id=2), 5)


@pytest.mark.parametrize(
    ("changed", "role"),
    [
        ({"mask_token_id": 5}, "mask id 5"),
        ({"pad_token_id": -1}, "pad id -1"),
        ({"eos_token_id": 7}, "eos id 7"),
        ({"bos_token_id": 6}, "special id 6"),
    ],
)
def test_an_id_outside_the_vocabulary_is_refused(changed, role):
    ids = {"mask_token_id": 1, "pad_token_id": 0, "eos_token_id": 2} | changed
    with pytest.raises(TokenizerError, match=f"the {role} lies outside .* 0 to 4"):
        special_ids(having(**ids), 5)


@pytest.mark.parametrize("wrong", [True, "1", 1.0, [1]])
@pytest.mark.parametrize("name", ["mask_token_id", "pad_token_id", "eos_token_id"])
def test_an_id_that_is_no_integer_is_refused(name, wrong):
    ids = {"mask_token_id": 1, "pad_token_id": 0, "eos_token_id": 2} | {name: wrong}
    with pytest.raises(TokenizerError, match=f"{name} is .*; a token id is an integer"):
        special_ids(having(**ids), 5)


def test_numpy_integers_are_integers():
    ids = special_ids(having(mask_token_id=np.int64(1), pad_token_id=0, eos_token_id=2), 5)
    assert type(ids.mask) is int


# ---------------------------------------------------------------- built-in tokenizers


@pytest.mark.parametrize("kind", TOKENIZERS.values())
def test_built_in_tokenizers_keep_the_contract_without_a_warning(kind):
    tokenizer = kind.from_corpus(["CCO"])
    assert special_ids(tokenizer, len(tokenizer)) == SpecialIds(mask=1, pad=0, eos=2, banned=(0, 1))


def test_the_vocabulary_is_the_specials_then_the_sorted_tokens_of_the_corpus():
    tokenizer = SmilesTokenizer.from_corpus(["OCC", "C#N"])
    assert tokenizer.tokens == ["<pad>", "<mask>", "</s>", "#", "C", "N", "O"]
    assert tokenizer.vocab_size == len(tokenizer) == 7
    assert tokenizer.encode("OC#N") == [6, 4, 3, 5]
    assert tokenizer.encode("OC#N", add_special_tokens=True) == [6, 4, 3, 5, 2]
    assert tokenizer.convert_ids_to_tokens([1, 6, 2]) == ["<mask>", "O", "</s>"]
    assert tokenizer.convert_tokens_to_ids(["<mask>", "O", "</s>"]) == [1, 6, 2]


@pytest.mark.parametrize("kind", TOKENIZERS.values())
def test_the_order_of_the_corpus_does_not_matter(kind):
    assert kind.from_corpus(DRUGLIKE).tokens == kind.from_corpus(DRUGLIKE[::-1] * 2).tokens


@pytest.mark.parametrize("kind", TOKENIZERS.values())
def test_an_empty_corpus_is_refused(kind):
    with pytest.raises(DataError, match="needs at least one token"):
        kind.from_corpus([])


def test_one_string_is_no_corpus():
    with pytest.raises(DataError, match=r"CharTokenizer.from_corpus\(\[text\]\)"):
        CharTokenizer.from_corpus("CCO")


def test_a_vocabulary_gives_each_token_one_id():
    with pytest.raises(DataError, match="'a' stands twice"):
        CharTokenizer(["a", "b", "a"])
    with pytest.raises(DataError, match="'<mask>' stands twice"):
        CharTokenizer(["a", "<mask>"])


def test_half_a_character_is_refused_before_it_reaches_a_file():
    with pytest.raises(DataError, match="half of a character"):
        CharTokenizer.from_corpus(["a\ud800"])


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1).filter(any))
def test_characters_round_trip_whatever_they_are(texts):
    tokenizer = CharTokenizer.from_corpus(texts)
    for text in texts:
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert len(tokenizer.encode(text)) == len(text)


def test_smiles_are_split_at_atoms_as_published():
    # Two-letter atoms, brackets, and two-digit rings are one token each.
    assert SmilesTokenizer.split("BrC[C@@H](Cl)C%12=N/c1") == [
        "Br", "C", "[C@@H]", "(", "Cl", ")", "C", "%12", "=", "N", "/", "c", "1",
    ]  # fmt: skip


def test_smiles_round_trip_to_the_letter():
    tokenizer = SmilesTokenizer.from_corpus(MOLECULES)
    assert [tokenizer.decode(tokenizer.encode(text)) for text in MOLECULES] == MOLECULES


@pytest.mark.parametrize("smiles", MOLECULES)
def test_selfies_round_trip_to_the_same_molecule(selfies_tokenizer, smiles):
    chem = pytest.importorskip("rdkit.Chem")
    decoded = selfies_tokenizer.decode(selfies_tokenizer.encode(smiles))
    assert chem.CanonSmiles(decoded) == chem.CanonSmiles(smiles)


def test_selfies_tokens_are_the_symbols(selfies_tokenizer):
    assert selfies_tokenizer.tokenize("CC=O") == ["[C]", "[C]", "[=O]"]
    assert SelfiesTokenizer.split("[Na+1].[Cl-1]") == ["[Na+1]", ".", "[Cl-1]"]


def test_a_bracket_atom_is_read_as_smiles_and_selfies_have_a_door_of_their_own(selfies_tokenizer):
    salt = selfies_tokenizer.encode("[Na+].[Cl-]")
    assert salt == selfies_tokenizer.encode_notation("[Na+1].[Cl-1]")
    assert selfies_tokenizer.decode_notation(salt) == "[Na+1].[Cl-1]"
    assert selfies_tokenizer.decode(salt) == "[Na+1].[Cl-1]"
    # [C] in SMILES is an atom without hydrogens, in SELFIES a carbon that takes them.
    assert selfies_tokenizer.to_text("[C]") == "C"
    assert SelfiesTokenizer.to_notation("[C]") == "[CH0]"


def test_a_corpus_may_come_as_selfies(selfies_tokenizer):
    notated = [SelfiesTokenizer.to_notation(smiles) for smiles in MOLECULES]
    assert SelfiesTokenizer.from_corpus(notated, notated=True).tokens == selfies_tokenizer.tokens


@pytest.mark.parametrize("kind", TOKENIZERS.values())
def test_every_sequence_of_tokens_decodes(kind):
    tokenizer = kind.from_corpus(MOLECULES)
    rng = np.random.default_rng(0)
    for _ in range(50):
        assert isinstance(tokenizer.decode(rng.integers(len(tokenizer), size=12)), str)


@pytest.mark.parametrize(
    ("smiles", "reason"),
    [
        ("", "empty SMILES"),
        ("CC(C)(C)(C)(C)C", "C with 6 bond"),
        ("c1ccc1c", "kekulization failed"),
        ("hello", "invalid atom symbol 'h'"),
        ("N22", "its parser cannot read a bond or ring"),
    ],
)
def test_a_smiles_without_selfies_is_refused_with_the_reason(selfies_tokenizer, smiles, reason):
    with pytest.raises(DataError, match=reason) as error:
        selfies_tokenizer.encode(smiles)
    assert "\n" not in str(error.value)


def test_a_symbol_that_selfies_does_not_define_is_refused():
    tokenizer = SelfiesTokenizer.from_corpus(["[foo]"], notated=True)
    with pytest.raises(DataError, match=r"cannot be decoded: invalid symbol '\[foo\]'"):
        tokenizer.decode([3])


def test_an_unknown_token_is_named():
    tokenizer = SmilesTokenizer.from_corpus(["CCO"])
    with pytest.raises(DataError, match="the token 'Br' of 'CCBr' is not among the 5 tokens"):
        tokenizer.encode("CCBr")
    with pytest.raises(DataError, match="'Br'"):
        tokenizer.convert_tokens_to_ids(["C", "Br"])


def test_what_is_no_token_at_all_is_shown_with_its_place():
    tokenizer = SmilesTokenizer.from_corpus(["CCO"])
    with pytest.raises(DataError, match="no token starts at character 3, ' O'"):
        tokenizer.encode("CC O")
    with pytest.raises(DataError, match="no token starts at character 4, 'C'"):
        SelfiesTokenizer.from_corpus(["[C]C"], notated=True)


def test_a_mask_in_the_notation_is_one_blank(selfies_tokenizer):
    carbon, oxygen = selfies_tokenizer.convert_tokens_to_ids(["[C]", "[O]"])
    blank = selfies_tokenizer.mask_token_id
    assert selfies_tokenizer.encode_with_masks("[C]<mask>[O]") == [carbon, blank, oxygen]
    assert selfies_tokenizer.encode_with_masks("<mask><mask>[C]") == [blank, blank, carbon]
    assert selfies_tokenizer.encode_with_masks("[C]") == [carbon]
    assert CharTokenizer.from_corpus(["ab"]).encode_with_masks("a<mask>") == [3, 1]


def test_decode_shows_the_specials_only_when_asked(selfies_tokenizer):
    ids = [*selfies_tokenizer.encode_with_masks("[C]<mask>[O]"), 2, 0]
    assert selfies_tokenizer.decode(ids) == "CO"
    assert selfies_tokenizer.decode(ids, skip_special_tokens=False) == "[C]<mask>[O]</s><pad>"


def test_ids_may_come_as_tensor_array_or_list(selfies_tokenizer):
    ids = selfies_tokenizer.encode("CCO")
    for same in (ids, tuple(ids), np.array(ids), torch.tensor(ids)):
        assert selfies_tokenizer.decode(same) == "CCO"


@pytest.mark.parametrize("wrong", [-1, 4])
def test_an_id_outside_the_vocabulary_has_no_token(wrong):
    with pytest.raises(DataError, match=f"token id {wrong} is outside this vocabulary of 4"):
        CharTokenizer.from_corpus(["a"]).decode([wrong])


def test_an_unknown_notation_suggests_the_nearest():
    assert tokenizer_class("selfies") is SelfiesTokenizer
    with pytest.raises(ConfigError, match="unknown tokenizer 'selfie' .did you mean \"selfies\""):
        tokenizer_class("selfie")


# ---------------------------------------------------------------- saved tokenizers


@pytest.mark.parametrize("kind", TOKENIZERS.values())
def test_a_saved_tokenizer_loads_as_itself(kind, tmp_path):
    saved = kind.from_corpus(MOLECULES)
    saved.save_pretrained(tmp_path / "deep" / "folder")
    loaded = load_tokenizer(str(tmp_path / "deep" / "folder"))
    assert type(loaded) is kind
    assert loaded.tokens == saved.tokens
    # No draft is left beside the two files.
    names = sorted(os.listdir(tmp_path / "deep" / "folder"))
    assert names == ["tokenizer.json", "tokenizer_config.json"]


def test_a_strange_alphabet_survives_the_files(tmp_path):
    strange = ['"', "\\", "\n", "\u2028", "\x00", "e\u0301", "\N{SNOWMAN}", "\U0001f9ea", " ", "<"]
    saved = CharTokenizer.from_corpus(strange)
    saved.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).tokens == saved.tokens


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | changes), "utf-8")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "tokenizer.json").unlink(), "tokenizer.json is missing"),
        (lambda d: (d / "tokenizer_config.json").unlink(), "tokenizer_config.json is missing"),
        (lambda d: (d / "tokenizer.json").write_text('{"mod'), "cannot be read"),
        (lambda d: (d / "tokenizer_config.json").write_bytes(b"\xff\xfe"), "cannot be read"),
        (lambda d: (d / "tokenizer_config.json").write_text("[1]"), "is not a JSON object"),
        (lambda d: edit(d / "tokenizer.json", model=None), "it has no vocabulary"),
        (
            lambda d: edit(d / "tokenizer.json", model={"vocab": {"<pad>": 0, "<mask>": 2}}),
            "without a gap",
        ),
        (
            lambda d: edit(d / "tokenizer.json", model={"vocab": {"a": 0, "b": 1}}),
            "must be followed by at least one token",
        ),
        (lambda d: edit(d / "tokenizer_config.json", imadarem={}), "its format is not"),
        (
            lambda d: edit(
                d / "tokenizer_config.json",
                imadarem={"format": "imadarem.tokenizer/1", "notation": "chat"},
            ),
            'did you mean "char"',
        ),
    ],
)
def test_a_damaged_folder_is_refused_with_the_reason(damage, message, tmp_path):
    CharTokenizer.from_corpus(["ab"]).save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        load_tokenizer(tmp_path)


def test_a_folder_that_does_not_exist_is_no_name_on_the_hub(tmp_path):
    with pytest.raises(CheckpointError, match="there is no folder"):
        load_tokenizer(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="there is no folder"):
        load_tokenizer("./nothing")


# ---------------------------------------------------------------- Hugging Face

SENTENCES = [
    "the cat sat on the mat",
    "a canvas of blanks is filled in a few passes",
    "the gate says which tokens to predict again",
] * 4
SPECIALS = ["[PAD]", "[MASK]", "[EOS]", "[UNK]"]


def word_level():
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    backend = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return backend, trainers.WordLevelTrainer(special_tokens=SPECIALS, show_progress=False)


def bpe():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    return backend, trainers.BpeTrainer(vocab_size=80, special_tokens=SPECIALS, show_progress=False)


def unigram():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    return backend, trainers.UnigramTrainer(
        vocab_size=60, special_tokens=SPECIALS, unk_token="[UNK]", show_progress=False
    )


def word_piece():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece()
    return backend, trainers.WordPieceTrainer(
        vocab_size=80, special_tokens=SPECIALS, show_progress=False
    )


def byte_level_bpe():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend, trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )


def hugging_face(build, **special_tokens):
    from transformers import PreTrainedTokenizerFast

    backend, trainer = build()
    backend.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special_tokens)


COMPLETE = {
    "pad_token": "[PAD]",
    "mask_token": "[MASK]",
    "eos_token": "[EOS]",
    "unk_token": "[UNK]",
}


# Importing transformers alone takes seconds.
@pytest.mark.slow
class TestHuggingFace:
    @pytest.fixture(params=[word_level, bpe, unigram, word_piece, byte_level_bpe])
    def tokenizer(self, request):
        return hugging_face(request.param, **COMPLETE)

    def test_a_sentence_round_trips(self, tokenizer):
        ids = tokenizer.encode(SENTENCES[0], add_special_tokens=False)
        assert tokenizer.decode(ids, skip_special_tokens=True) == SENTENCES[0]

    def test_the_contract_holds(self, tokenizer):
        # The trainers number SPECIALS first: [PAD] 0, [MASK] 1, [EOS] 2, [UNK] 3.
        expected = SpecialIds(mask=1, pad=0, eos=2, banned=(0, 1, 3))
        assert special_ids(tokenizer, len(tokenizer)) == expected

    def test_a_saved_one_loads_with_the_same_ids(self, tokenizer, tmp_path):
        tokenizer.save_pretrained(tmp_path)
        loaded = load_tokenizer(tmp_path)
        text = SENTENCES[1]
        assert loaded.encode(text) == tokenizer.encode(text)
        assert special_ids(loaded, len(loaded)) == special_ids(tokenizer, len(tokenizer))

    def test_an_added_mask_must_fit_into_the_vocabulary(self):
        tokenizer = hugging_face(byte_level_bpe, pad_token="[PAD]", eos_token="[EOS]")
        size = len(tokenizer)
        with pytest.raises(TokenizerError, match="no mask token"):
            special_ids(tokenizer, size)
        tokenizer.add_special_tokens({"mask_token": "<mask>"})
        with pytest.raises(TokenizerError, match=f"the mask id {size} lies outside"):
            special_ids(tokenizer, size)
        assert special_ids(tokenizer, len(tokenizer)).mask == size

    def test_padding_with_the_end_token_is_a_collision(self):
        # As is the custom with GPT-2, which has no pad token of its own.
        shared = COMPLETE | {"pad_token": "[EOS]"}
        tokenizer = hugging_face(byte_level_bpe, **shared)
        with pytest.raises(TokenizerError, match="pad and eos share the token id 2"):
            special_ids(tokenizer, len(tokenizer))

    def test_a_bert_like_one_ends_with_its_sep(self):
        named = {"pad_token": "[PAD]", "mask_token": "[MASK]", "sep_token": "[EOS]"}
        tokenizer = hugging_face(word_piece, **named)
        with pytest.warns(UserWarning, match="its sep token"):
            assert special_ids(tokenizer, len(tokenizer)).eos == 2

    @pytest.mark.parametrize("kind", TOKENIZERS.values())
    def test_auto_tokenizer_reads_the_built_in_ones(self, kind, tmp_path):
        from transformers import AutoTokenizer

        ours = kind.from_corpus(MOLECULES)
        ours.save_pretrained(tmp_path)
        theirs = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
        assert theirs.get_vocab() == {token: i for i, token in enumerate(ours.tokens)}
        assert special_ids(theirs, len(theirs)) == special_ids(ours, len(ours))
        for molecule in MOLECULES:
            notation = ours.to_notation(molecule)
            ids = ours.encode(molecule, add_special_tokens=True)
            assert theirs.encode(notation) == ids
            assert theirs.decode(ids, skip_special_tokens=True) == notation
        # What AutoTokenizer saves again is still ours.
        theirs.save_pretrained(tmp_path / "again")
        assert type(load_tokenizer(tmp_path / "again")) is kind

    def test_a_folder_of_something_else_is_refused(self, tmp_path):
        (tmp_path / "config.json").write_text('{"model_type": "no-such-model"}')
        with pytest.raises(CheckpointError, match="holds no tokenizer that transformers can load"):
            load_tokenizer(tmp_path)
