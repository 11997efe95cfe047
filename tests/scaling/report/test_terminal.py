"""Tables for the terminal: alignment, order, missing values."""

from gpt_jax.scaling.report import terminal

ROWS = [
    {
        'name': 'large',
        'status': 'done',
        'params_non_embedding': 1234567,
        'tokens': 4000000,
        'flops_with_attention': 2.5e13,
        'validation_loss': 1.23456,
        'bits_per_byte': 1.78,
        'seconds': 1234.56,
    },
    {'name': 's', 'status': 'failed: exit code 1', 'params_non_embedding': 999},
]


def test_trials():
    lines = terminal.format_trials(ROWS).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split()[0] == 'size'
    for convention in ('(non-embedding)', '(6N + attention)', '(nats/token)', 'bits/byte'):
        assert convention in lines[0]
    assert ' '.join(lines[2].split()) == 's (failed: exit code 1) 999 - - - - -'
    cells = 'large 1,234,567 4,000,000 2.50e+13 1.2346 1.7800 1,234.6'
    assert ' '.join(lines[3].split()) == cells
    right = lines[0].index('parameters (non-embedding)') + len('parameters (non-embedding)')
    assert lines[2][:right].endswith(' 999')
    assert lines[3][:right].endswith(' 1,234,567')


def test_table_columns_are_aligned():
    lines = terminal.format_table(
        ('name', 'steps', 'note'), [('a', '10', ''), ('bb', '1,000', 'x')], left=(0, 2)
    )
    assert lines == [
        'name  steps  note',
        '----  -----  ----',
        'a        10      ',
        'bb    1,000  x   ',
    ]
