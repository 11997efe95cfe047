"""Is an operation counted to the part of the model that it is for?"""

import re

import pytest

from gpt_jax.preflight.parts import PARTS, REST


@pytest.mark.parametrize(
    ('name', 'part'),
    [
        ('jvp(GPT)/blocks/feedforward/dot_general', 'feed-forward'),
        ('jvp(GPT)/blocks/feedforward/all_gather', 'feed-forward'),  # of its weights: no routing
        ('transpose(jvp(GPT))/blocks/feedforward/reduce_scatter', 'feed-forward'),
        ('jvp(GPT)/blocks/feedforward/sort', 'feed-forward, routing'),
        ('jvp(GPT)/blocks/feedforward/gather', 'feed-forward, routing'),
        ('jvp(GPT)/blocks/attention/all_gather', 'attention, projections'),
        ('add', REST),
    ],
)
def test_names(name, part):
    assert next((one for one, pattern in PARTS.items() if re.search(pattern, name)), REST) == part
