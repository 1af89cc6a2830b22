import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lifelong.nets import WordPiece, byte_texts, text_bytes

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "##aff", "##able", "want", "##ed", ",", "runn"]
PIECES += ["##ing", "cafe", "北", "don", "'", "t", "un##x"]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("UNwanted, running", ["[UNK]", ",", "runn", "##ing"]),
        ("unaffable", ["un", "##aff", "##able"]),
        ("Café\tcafe\u00a0CAFÉ", ["cafe", "cafe", "cafe"]),
        ("北北x", ["北", "北", "[UNK]"]),
        ("don't", ["don", "'", "t"]),
        ("a\x00\ufffd\u200b", ["[UNK]"]),
        ("un" * 51, ["[UNK]"]),
        ("", []),
    ],
)
def test_texts_are_cut_into_their_longest_known_pieces(text, pieces):
    made = WordPiece(PIECES).encode([text])[0].tolist()
    assert made == [2, *(PIECES.index(piece) for piece in pieces), 3]


def test_rows_are_filled_up_and_cut_off():
    made = WordPiece(PIECES, length=4).encode(["want want want want", "un"])
    assert made.tolist() == [[2, 7, 7, 3], [2, 4, 3, 0]]
    assert WordPiece(PIECES).encode([]).shape == (0, 0)


@given(st.lists(st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]))))
def test_texts_travel_as_bytes(texts):
    assert byte_texts(text_bytes(texts)) == texts
    tokens = WordPiece(PIECES)
    assert torch.equal(tokens(text_bytes(texts)), tokens.encode(texts))


def test_wrong_use_is_told():
    with pytest.raises(ValueError, match=r"lacks \['\[SEP\]'\]"):
        WordPiece(PIECES[:3])
    with pytest.raises(ValueError, match=r"lacks \[PAD\] at 0"):
        WordPiece(PIECES[::-1])
    with pytest.raises(ValueError, match="length is 2"):
        WordPiece(PIECES, length=2)
    with pytest.raises(ValueError, match="give them as bytes: text_bytes"):
        byte_texts(torch.zeros(2, 3))


def test_a_vocabulary_is_read_line_by_line(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(PIECES) + "\n", "utf-8")
    assert list(WordPiece.read(tmp_path / "vocab.txt").vocabulary) == PIECES
