"""Files beside a tokenizer.json or a vocabulary mean what they mean to transformers."""

import itertools
import json

import pytest

from gpt_jax.core.config import DataConfig, default_config, parse_section
from gpt_jax.data import tokenizer
from gpt_jax.data.tokenized_dataset import prepare_dataset

tokenizers = pytest.importorskip('tokenizers')
SPECIAL = ('<|endoftext|>', '</s>', '<s>')
TEXTS = ('the cat', ' the dog sat', '', 'é <x> the')
GPT2 = {'tokenizer_class': 'GPT2Tokenizer'}
FAST = {'tokenizer_class': 'PreTrainedTokenizerFast'}


@pytest.fixture(scope='module')
def trained():
    byte_level = tokenizers.pre_tokenizers.ByteLevel
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = byte_level(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=280,
        special_tokens=list(SPECIAL),
        initial_alphabet=byte_level.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(['the cat sat on the mat and the dog sat'] * 20, trainer)
    return bpe


def write_folder(path, trained, form, config=None, special=None, added=None):
    """Write a folder with a tokenizer.json or with vocab.json and merges.txt."""
    path.mkdir(parents=True, exist_ok=True)
    if form == 'json':
        trained.save(str(path / 'tokenizer.json'))
    else:
        trained.model.save(str(path))
    contents = {
        'tokenizer_config.json': config,
        'special_tokens_map.json': special,
        'added_tokens.json': added,
        'config.json': {'model_type': 'gpt2'},
    }
    for name, content in contents.items():
        if content is not None:
            (path / name).write_text(json.dumps(content))
    return path


def load(folder):
    return tokenizer.make_tokenizer(str(folder), list)


ENDS = [
    ({}, None, 0),
    (FAST, None, 0),
    (FAST | {'eos_token': '</s>', 'pad_token': '<|endoftext|>'}, None, 1),
    (FAST | {'eos_token': {'content': '</s>', 'special': True}}, {'eos_token': '<s>'}, 2),
    (FAST | {'eos_token': '</s>', 'added_tokens_decoder': {}}, {'eos_token': '<s>'}, 1),
    (FAST | {'eos_token': '<|im_end|>'}, None, 277),
    (FAST, {'eos_token': {'content': '<s>'}}, 2),
    (None, {'eos_token': '</s>'}, 1),
]


@pytest.mark.parametrize('form', ['json', 'vocabulary'])
@pytest.mark.parametrize(('config', 'special', 'expected'), ENDS)
def test_a_document_ends_with_the_eos_token(tmp_path, trained, form, config, special, expected):
    words = load(write_folder(tmp_path / 'x', trained, form, config, special))
    assert words.end_of_document == expected
    assert words.decode([*words.encode('the cat'), expected]) == 'the cat'
    name = dict(enumerate(SPECIAL)).get(expected, '<|im_end|>')
    assert expected not in words.encode(f'a {name} b')
    tokenizer.save_tokenizer(words, tmp_path)
    again = tokenizer.load_tokenizer(tmp_path / 'tokenizer.json')
    assert (again.end_of_document, again.fingerprint) == (expected, words.fingerprint)
    assert tokenizer.encode_special_tokens(words).end_of_document == expected
    assert (words.end_name == '') == (expected == 0)


SPECIAL_TOKENS = [
    ({}, None, None),
    (FAST | {'eos_token': '<|im_end|>', 'pad_token': '[PAD]', 'bos_token': '<s>'}, None, None),
    (FAST | {'additional_special_tokens': ['<x>', '</s>']}, None, None),
    (FAST | {'extra_special_tokens': {'image_token': '<x>'}}, None, None),
    (
        FAST
        | {
            'added_tokens_decoder': {
                '278': {'content': '[PAD]', 'special': False, 'normalized': False},
                '277': {'content': '<x>', 'lstrip': True, 'rstrip': True, 'special': True},
            },
            'pad_token': '[PAD]',
        },
        {'eos_token': '<s>'},
        {'<y>': 277},
    ),
    (FAST | {'eos_token': '</s>'}, {'eos_token': '<s>', 'pad_token': '<x>'}, {'[PAD]': 277}),
    (FAST, {'unk_token': {'content': '<x>', 'lstrip': True}}, None),
]


@pytest.mark.parametrize('form', ['json', 'vocabulary'])
@pytest.mark.parametrize('files', SPECIAL_TOKENS, ids=str)
def test_special_tokens_in_a_prompt_are_those_of_transformers(tmp_path, trained, form, files):
    config, special, added = files
    if form == 'vocabulary':
        config = config | GPT2
    transformers = pytest.importorskip('transformers')
    folder = write_folder(tmp_path / 'x', trained, form, config, special, added)
    words, theirs = load(folder), transformers.AutoTokenizer.from_pretrained(folder)
    if theirs.eos_token_id is not None:
        assert words.end_of_document == theirs.eos_token_id
    prompts = tokenizer.encode_special_tokens(words)
    for name in (*SPECIAL, '<x>', '<y>', '[PAD]', '<|im_end|>'):
        text = f'the {name} cat{name}<s>'
        assert list(prompts.encode(text)) == theirs.encode(text), text
        assert not {*words.encode(text)} & set(theirs.all_special_ids)


def test_a_folder_without_news_beside_it_is_read_unchanged(tmp_path, trained):
    config = FAST | {'eos_token': '</s>', 'pad_token': {'content': '<s>', 'special': True}}
    folder = write_folder(tmp_path / 'x', trained, 'json', config)
    assert load(folder).content == (folder / 'tokenizer.json').read_bytes()


SIDE_FILES = [
    dict(zip(('form', 'config', 'added'), values, strict=True))
    for values in itertools.product(
        ('json', 'vocabulary'),
        (
            GPT2,
            FAST,
            GPT2 | {'add_prefix_space': True},
            GPT2 | {'add_prefix_space': False},
            FAST | {'add_prefix_space': True},
            GPT2 | {'add_bos_token': True, 'bos_token': '<s>'},
            FAST | {'add_bos_token': True, 'bos_token': '<s>'},
        ),
        (None, {'<x>': 290, '</s>': 1}),
    )
    if values[0] == 'json' or values[1]['tokenizer_class'] == 'GPT2Tokenizer'
]


@pytest.mark.parametrize('files', SIDE_FILES, ids=str)
def test_ids_are_those_of_transformers(tmp_path, trained, files):
    transformers = pytest.importorskip('transformers')
    folder = write_folder(tmp_path / 'x', trained, **files)
    words, theirs = load(folder), transformers.AutoTokenizer.from_pretrained(folder)
    prefix = tokenizer.find_prefix_ids(words)
    for text in TEXTS:
        assert [*prefix, *words.encode(text)] == theirs.encode(text), text
    again = tokenizer.parse_tokenizer_json(words.content, 'x')
    assert [list(again.encode(text)) for text in TEXTS] == [
        list(words.encode(text)) for text in TEXTS
    ]


def test_prefix_space_start_token_and_added_tokens(tmp_path, trained):
    """The values of the test above, for where transformers is not installed."""
    plain = load(write_folder(tmp_path / 'a', trained, 'json', GPT2))
    spaced = load(write_folder(tmp_path / 'b', trained, 'json', GPT2 | {'add_prefix_space': True}))
    assert list(spaced.encode('the cat')) == list(plain.encode(' the cat'))
    started = {'add_bos_token': True, 'bos_token': '<s>'}
    words = load(write_folder(tmp_path / 'c', trained, 'vocabulary', GPT2 | started))
    assert tokenizer.find_prefix_ids(words) == (2,)
    added = load(write_folder(tmp_path / 'd', trained, 'json', FAST, added={'<x>': 290}))
    assert list(added.encode('<x>')) == [plain.vocab_size]


def test_documents_of_a_cache_end_with_the_eos_token(tmp_path, trained):
    folder = write_folder(tmp_path / 'x', trained, 'json', FAST | {'eos_token': '</s>'})
    (tmp_path / 'rows.jsonl').write_text(
        ''.join(json.dumps({'text': 'the cat'}) + '\n' for _ in range(40))
    )
    raw = default_config()
    raw['data'] |= {
        'source': f'files:{tmp_path}/rows.jsonl',
        'tokenizer': str(folder),
        'cache': str(tmp_path / 'cache'),
        'validation_fraction': 0.3,
        'holdout': 'tail',
    }
    config = parse_section(raw, 'data')
    assert isinstance(config, DataConfig)
    dataset = prepare_dataset(config, lambda _: None)
    length = len(load(folder).encode('the cat'))
    assert dataset.train.ids[length] == 1
    assert dataset.load_tokenizer().end_of_document == 1
    (folder / 'tokenizer_config.json').write_text(json.dumps(FAST | {'eos_token': '<s>'}))
    assert prepare_dataset(config, lambda _: None).train.ids[length] == 2
