"""Names select the parameters that they should, and errors suggest a correction."""

import pytest

from gpt_jax.core.errors import UserError
from gpt_jax.finetune.parameter_names import select_parameters, subtract_selection

LOGICAL_AXES = {
    'blocks/attention/query': 'NDHK',
    'blocks/attention/query_bias': 'NHK',
    'blocks/attention/value': 'NDGK',
    'blocks/feedforward/up': 'NDF',
    'blocks/norm_1/bias': 'ND',
    'blocks/norm_1/scale': 'ND',
    'embedding/table_VD': 'VD',
    'norm/scale': 'D',
}
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
        (
            ['*'],
            {
                path: ALL if letters.startswith('N') else None
                for path, letters in LOGICAL_AXES.items()
            },
        ),
        (['blocks[1:3]/*/query'], {'blocks/attention/query': (1, 2)}),
        (['blocks[-1]/feedforward'], {'blocks/feedforward/up': (3,)}),
        (['blocks[:2]/up', 'blocks[2]/up'], {'blocks/feedforward/up': (0, 1, 2)}),
        (['blocks[0]'], {path: (0,) for path in LOGICAL_AXES if path.startswith('blocks')}),
        (['blocks/scale'], {'blocks/norm_1/scale': ALL}),
        (['blocks[3:]/norm_1/scale', 'scale'], {'blocks/norm_1/scale': ALL, 'norm/scale': None}),
    ],
    ids=str,
)
def test_names_select_parameters(names, expected):
    assert select_parameters(LOGICAL_AXES, names, 4, 'finetune.train') == expected


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        (
            'querry',
            "config.finetune.train: 'querry' matches no parameter of the model; the nearest is "
            "'query'",
        ),
        ('blocks/atention', "the nearest is 'blocks/attention'"),
        ('blocks[4:]', "'blocks[4:]' matches no layer; there are 4"),
        ('blocks[-5]/up', "'blocks[-5]/up' matches no layer; there are 4"),
        ('blocks[a]', "layers must be written as 'blocks[3]' or 'blocks[0:6]', got 'blocks[a]'"),
        ('', "'' matches no parameter of the model"),
    ],
)
def test_a_name_without_a_match_is_rejected(name, message):
    with pytest.raises(UserError) as error:
        select_parameters(LOGICAL_AXES, [name], 4, 'finetune.train')
    assert message in str(error.value)


def test_subtraction_removes_parameters_and_layers():
    everything = select_parameters(LOGICAL_AXES, ['*'], 4, '')
    excluded = select_parameters(LOGICAL_AXES, ['embedding', 'blocks[:2]', 'up'], 4, '')
    upper_layers = {
        path: (2, 3)
        for path in LOGICAL_AXES
        if path.startswith('blocks') and not path.endswith('up')
    }
    assert subtract_selection(everything, excluded) == upper_layers | {'norm/scale': None}
