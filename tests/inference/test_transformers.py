"""Generated texts equal those of transformers' `generate`, token for token.

GPT-2 and Llama with weights mapped by hand; all layouts, imported, with
`pytest -m slow -n 0 tests/inference/test_transformers.py`.
"""

import functools

import pytest

from tests import peers
from tests.inference import engines, hugging_face
from tests.inference.engines import END, generate, prompts, token_ids
from tests.interop import golden, small_models
from tests.model.architectures import ARCHITECTURES
from tests.model.test_gpt import make_model

peers.find_or_skip('torch', 'transformers needs it')
peers.find_or_skip('transformers', 'the comparison')

LENGTHS = (1, 2, 3, 7, 12, 13, 20, 30)
LAYERS = {'gpt2': 2, 'llama': 1}
LAYOUTS = (
    'gpt2',
    'gpt2_layer_scaling',
    'openai-gpt',
    'gpt_neox',
    'opt',
    'opt_post_norm',
    'llama',
    'mistral',
    'mixtral',
    'qwen2',
    'qwen3',
    'olmo2',
    'olmo3',
    'gemma2',
    'gemma3_text',
    'qwen3_moe',
)


@functools.cache
def make_pair(name):
    """(our engine, the model of transformers)."""
    import torch

    torch.set_num_threads(1)
    config = engines.config(**ARCHITECTURES[name] | {'context': 256, 'layers': LAYERS[name]})
    params, _ = make_model(config)
    return engines.build_engine(config, params), getattr(hugging_face, name)(config, params)


@pytest.mark.parametrize('name', ['gpt2', 'llama'])
def test_200_greedy_tokens(name):
    ours, theirs = make_pair(name)
    for given in (prompts(9), prompts(*LENGTHS)):
        assert token_ids(generate(ours, given, max_new_tokens=200)) == hugging_face.generate(
            theirs, given, max_new_tokens=200
        )


@pytest.fixture(scope='module')
def imported(request, tmp_path_factory):
    """(our engine, the model of transformers) of a layout, imported from a saved folder."""
    import torch

    torch.set_num_threads(1)
    kind, fields = small_models.EXAMPLES[request.param]
    context = {'n_positions': 256} if 'n_positions' in fields else {'max_position_embeddings': 256}
    ends = {
        'vocab_size': END + 1,
        'bos_token_id': 0,
        'eos_token_id': END,
        'tie_word_embeddings': False,
    }
    folder = tmp_path_factory.mktemp(request.param)
    theirs = golden.make_model(kind, fields | context | ends, folder)
    ours = small_models.import_model(folder, attention_kernel='chunked')
    return engines.build_engine(ours.config, ours.params), theirs


@pytest.mark.slow
@pytest.mark.parametrize('imported', LAYOUTS, indirect=True)
@pytest.mark.parametrize(
    'given',
    [
        {},
        {'num_beams': 4, 'num_return_sequences': 2},
        {'repetition_penalty': 1.1, 'no_repeat_ngram_size': 2},
    ],
    ids=str,
)
@pytest.mark.parametrize('lengths', [(9,), LENGTHS], ids=['one', 'eight'])
def test_200_tokens_of_every_layout(imported, lengths, given):
    ours, theirs = imported
    several = prompts(*lengths, seed=4)
    given = given | {'min_new_tokens': 200, 'max_new_tokens': 200}
    expected = hugging_face.generate(theirs, several, **given)
    assert {len(row) for row in expected} == {200}
    assert token_ids(generate(ours, several, **given)) == expected


def test_greedy_tokens_with_penalties():
    given = {'min_new_tokens': 20, 'repetition_penalty': 1.1, 'no_repeat_ngram_size': 3}
    ours, theirs = make_pair('gpt2')
    several = prompts(*LENGTHS[:4], seed=1)
    assert token_ids(generate(ours, several, max_new_tokens=40, **given)) == hugging_face.generate(
        theirs, several, max_new_tokens=40, **given
    )


@pytest.mark.parametrize(
    ('name', 'given'),
    [
        ('llama', {'num_beams': 4, 'num_return_sequences': 3, 'length_penalty': 2.0}),
        (
            'gpt2',
            {
                'num_beams': 4,
                'num_return_sequences': 4,
                'early_stopping': True,
                'repetition_penalty': 1.2,
            },
        ),
        (
            'gpt2',
            {
                'num_beams': 3,
                'length_penalty': -1.0,
                'early_stopping': 'never',
                'num_return_sequences': 2,
            },
        ),
        (
            'gpt2',
            {
                'num_beams': 2,
                'length_penalty': 0.5,
                'eos_token_id': [96, 7, 20, 33, 41],
                'num_return_sequences': 2,
            },
        ),
    ],
    ids=str,
)
def test_beam_search(name, given):
    ours, theirs = make_pair(name)
    several = prompts(*LENGTHS, seed=2)
    expected = hugging_face.generate(theirs, several, max_new_tokens=25, **given)
    ends = set(given.get('eos_token_id', [96]))
    until_end = [
        next((row[: k + 1] for k, id_ in enumerate(row) if id_ in ends), row) for row in expected
    ]
    assert token_ids(generate(ours, several, max_new_tokens=25, **given)) == until_end
