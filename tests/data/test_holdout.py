"""Is exactly the asked share held out, and nothing lost or on both sides?"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_jax.data.holdout import HOLDOUTS
from gpt_jax.data.text_files import Piece

PIECES = st.lists(st.builds(Piece, st.text('ab é', max_size=9), st.booleans()), max_size=20)


def side(labelled, wanted):
    return ''.join(piece.text for split, piece in labelled if split == wanted)


@settings(deadline=None)
@given(pieces=PIECES, fraction=st.floats(0.01, 0.99))
def test_tail_is_the_last_characters(pieces, fraction):
    pieces = [*pieces, Piece('end', True)]
    text = ''.join(piece.text for piece in pieces)
    labelled = list(HOLDOUTS['tail'](lambda: iter(pieces), fraction))
    cut = int(len(text) * (1 - fraction))
    assert side(labelled, 'train') == text[:cut]
    assert side(labelled, 'validation') == text[cut:]
    for split in ('train', 'validation'):
        mine = [piece for label, piece in labelled if label == split]
        assert not mine or mine[-1].last  # the last document of either side has its end


def test_tail_of_one_document_is_nanogpts_split():
    text = 'x' * 1_115_394
    labelled = list(HOLDOUTS['tail'](lambda: iter([Piece(text, True)]), 0.1))
    assert [(split, len(piece.text)) for split, piece in labelled] == [('train', 1_003_854), ('validation', 111_540)]


def test_documents_keep_copies_and_pieces_together():
    documents = [f'document {i % 500}' for i in range(1000)]
    pieces = [piece for text in documents for piece in (Piece(text, False), Piece(' goes on', True))]
    labelled = list(HOLDOUTS['documents'](lambda: iter(pieces), 0.2))
    assert [piece for _, piece in labelled] == pieces
    sides = {}
    for (first, a), (second, _) in zip(labelled[::2], labelled[1::2], strict=True):
        assert first == second
        assert sides.setdefault(a.text, first) == first
    held = sum(label == 'validation' for label in sides.values())
    assert 70 <= held <= 130  # 100 expected, standard deviation 9


def test_more_held_out_never_returns_a_document_to_train():
    pieces = [Piece(str(i), True) for i in range(300)]
    held = [
        {piece.text for label, piece in HOLDOUTS['documents'](lambda: iter(pieces), fraction) if label == 'validation'}
        for fraction in (0.05, 0.3)
    ]
    assert held[0] < held[1]


@pytest.mark.parametrize('how', HOLDOUTS)
def test_nothing_in_nothing_out(how):
    assert list(HOLDOUTS[how](lambda: iter([]), 0.5)) == []
