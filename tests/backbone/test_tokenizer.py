import numpy as np
import pytest
from transformers import CLIPTokenizer

from moa_jax.backbone.tokenizer import MAX_LENGTH, WORDS, write_tokenizer
from moa_jax.errors import InputError


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return CLIPTokenizer.from_pretrained(folder)


def test_each_word_is_one_token_of_its_own(tokenizer):
    ids = [tokenizer(word, add_special_tokens=False).input_ids for word in WORDS]
    assert all(len(word) == 1 for word in ids)
    assert len({word[0] for word in ids}) == len(WORDS)


def test_words_stay_whole_inside_a_caption(tokenizer):
    caption = "A  man and a WOMAN reading, in the snow"
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(caption).input_ids)
    words = [token.removesuffix("</w>") for token in tokens[1:-1]]
    assert words == ["a", "man", "and", "a", "woman", "reading", ",", "in", "the", "snow"]


def test_padding_reaches_the_text_towers_length_with_endoftext(tokenizer):
    out = tokenizer("a man", padding="max_length", truncation=True, return_tensors="np")
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    a, man = tokenizer("a man", add_special_tokens=False).input_ids
    assert tokenizer.model_max_length == MAX_LENGTH
    np.testing.assert_array_equal(out.input_ids, [[start, a, man, *[end] * (MAX_LENGTH - 3)]])


def test_any_other_text_survives_the_round_trip(tokenizer):
    text = "zebra's 42 äpfel 雪 🙂"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.unk_token_id not in ids
    assert "".join(tokenizer.decode(ids).split()) == "".join(text.split())


def test_ids_fill_the_range_with_the_special_ones_last_as_in_clip(tokenizer):
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))
    assert tokenizer.bos_token_id == len(tokenizer) - 2
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == len(tokenizer) - 1


def test_overlapping_words_do_not_spoil_each_other(tmp_path):
    words = ["beach", "each", "ache", "aches", "teacher", "teach", "b", "hea", "aaa", "aaaa"]
    write_tokenizer(tmp_path, words)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    assert [len(tokenizer(word, add_special_tokens=False).input_ids) for word in words] == [1] * 10


def test_the_same_words_give_the_same_files(tmp_path):
    write_tokenizer(tmp_path / "one", ["man", "snow"])
    write_tokenizer(tmp_path / "two", ["snow", "man", "man"])
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == ["merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json"]
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_word_that_clip_would_cut_is_refused(tmp_path):
    with pytest.raises(InputError, match="it's"):
        write_tokenizer(tmp_path, ["man", "it's", "Snow"])
