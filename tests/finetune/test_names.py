"""Does a name mean the weights that it says, and what is said of one that means none?"""

import pytest

from gpt_jax.errors import UserError
from gpt_jax.finetune.names import chosen, without

LETTERS = {
    'blocks/attention/query': 'NDHK', 'blocks/attention/query_bias': 'NHK', 'blocks/attention/value': 'NDGK',
    'blocks/feedforward/up': 'NDF', 'blocks/norm_1/bias': 'ND', 'blocks/norm_1/scale': 'ND',
    'embedding/table_VD': 'VD', 'norm/scale': 'D',
}  # fmt: skip
ALL = (0, 1, 2, 3)


@pytest.mark.parametrize(
    ('names', 'expected'),
    [
        (['query'], {'blocks/attention/query': ALL}),
        (['blocks/attention/value'], {'blocks/attention/value': ALL}),
        (['attention/query*'], {'blocks/attention/query': ALL, 'blocks/attention/query_bias': ALL}),
        (['*bias'], {'blocks/attention/query_bias': ALL, 'blocks/norm_1/bias': ALL}),
        (['norm'], {'norm/scale': None}),
        (['norm*'], {'blocks/norm_1/bias': ALL, 'blocks/norm_1/scale': ALL, 'norm/scale': None}),
        (['embedding'], {'embedding/table_VD': None}),
        (['*'], {path: ALL if word.startswith('N') else None for path, word in LETTERS.items()}),
        (['blocks[1:3]/*/query'], {'blocks/attention/query': (1, 2)}),
        (['blocks[-1]/feedforward'], {'blocks/feedforward/up': (3,)}),
        (['blocks[:2]/up', 'blocks[2]/up'], {'blocks/feedforward/up': (0, 1, 2)}),
        (['blocks[0]'], {path: (0,) for path in LETTERS if path.startswith('blocks')}),
        (['blocks/scale'], {'blocks/norm_1/scale': ALL}),
        (['blocks[3:]/norm_1/scale', 'scale'], {'blocks/norm_1/scale': ALL, 'norm/scale': None}),
    ],
    ids=str,
)
def test_what_names_mean(names, expected):
    assert chosen(LETTERS, names, 4, 'tune.train') == expected


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('querry', "config.tune.train: 'querry' is no weight of this model; the nearest is 'query'"),
        ('blocks/atention', "the nearest is 'blocks/attention'"),
        ('blocks[4:]', "'blocks[4:]' means none of the 4 layers"),
        ('blocks[-5]/up', "'blocks[-5]/up' means none of the 4 layers"),
        ('blocks[a]', "'blocks[a]': wants layers as 'blocks[3]' or 'blocks[0:6]'"),
        ('', "'' is no weight of this model"),
    ],
)
def test_a_name_that_means_nothing(name, message):
    with pytest.raises(UserError) as error:
        chosen(LETTERS, [name], 4, 'tune.train')
    assert message in str(error.value)


def test_one_without_another():
    everything = chosen(LETTERS, ['*'], 4, '')
    left = without(everything, chosen(LETTERS, ['embedding', 'blocks[:2]', 'up'], 4, ''))
    assert left == {path: (2, 3) for path in LETTERS if path.startswith('blocks') and not path.endswith('up')} | {
        'norm/scale': None
    }
