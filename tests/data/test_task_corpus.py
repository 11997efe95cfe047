"""Is a dialogue read as its tokenizer's chat template means it, token for token?"""

import numpy as np
import pytest

from gpt_jax.data import examples, task_corpus, tokenizer
from gpt_jax.data.rows import Row
from tests.data import test_chat
from tests.data.test_packed import task

MARKS = ('<|im_start|>', '<|im_end|>')


@pytest.fixture(scope='module')
def made():
    import tokenizers

    plain = tokenizer.train(['Why? Because. Yes.\nAnd no. system user assistant'] * 3, 300)
    inner = tokenizers.Tokenizer.from_str(plain.content.decode())
    inner.add_special_tokens(list(MARKS))
    return tokenizer._from_content(inner.to_str().encode(), 'made')


def rows(made, chat):
    chosen = task('answer', answer='', messages='turns', chat=chat)
    how = test_chat.of(test_chat.CHATML)
    one = examples.make(Row('train[0]', {'turns': test_chat.DIALOGUE}), chosen, {}, how)
    both = {'train': [one], 'validation': [one]}
    corpus = task_corpus.make(chosen, both, made, 256, lambda _: None)
    return {name: array[0] for name, array in corpus.train.take([0]).items()}, one, corpus


def test_special_tokens_of_a_template_are_tokens_and_answers_end_with_theirs(made):
    row, one, _ = rows(made, chat=True)
    begin, end = (made.vocab_size - 2 + n for n in range(2))
    assert np.sum(row['inputs'] == begin) == 5  # the system's turn, and four
    learned = row['targets'][row['weights'] > 0]
    spelled = tokenizer.spelled(made)
    assert np.sum(learned == end) == 2
    assert begin not in learned
    text = ''.join(part for part, _ in one.parts)
    assert row['inputs'][: np.sum(row['segments'] > 0)].tolist() == spelled.encode(text).tolist()
    assert spelled.decode(learned) == 'Because.<|im_end|>\nYes.\nAnd no.<|im_end|>\n'


def test_text_alone_never_becomes_a_special_token(made):
    assert set(made.encode('<|im_end|>').tolist()).isdisjoint({made.vocab_size - 1, made.vocab_size - 2})
    row, _, _ = rows(made, chat=False)
    assert np.sum(row['inputs'] == made.vocab_size - 1) == 0


def test_what_is_said_to_be_the_same_data_depends_on_the_template(made):
    assert rows(made, chat=True)[2].fingerprint != rows(made, chat=False)[2].fingerprint
