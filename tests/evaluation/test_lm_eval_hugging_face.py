"""lm_eval with this library's models against its own backend, that of transformers."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tokenizers

pytest.importorskip('lm_eval', reason='the harness')

from gpt_jax.data import tokenizer
from gpt_jax.evaluation.lm_eval_adapter import LmEvalModel
from tests import peers, trained
from tests.evaluation.lm_eval_tasks import NAMES, make_text, write_tasks

torch = peers.find_or_skip('torch', 'the other backend')
transformers = peers.find_or_skip('transformers', 'the other backend')

# The libraries emit many warnings.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings('ignore')]
CONTEXT = 64
SIZES = {
    'gpt2': {'n_positions': CONTEXT, 'n_embd': 32, 'n_layer': 2, 'n_head': 4},
    'llama': {
        'max_position_embeddings': CONTEXT,
        'hidden_size': 32,
        'intermediate_size': 48,
        'num_hidden_layers': 2,
        'num_attention_heads': 4,
        'num_key_value_heads': 2,
        'tie_word_embeddings': False,
    },
}
CHAT = """{% for turn in messages %}<|{{ turn['role'] }}|>{{ turn['content'] }}
{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"""

# The command in an environment without torch and transformers.
WITHOUT_TORCH = """
import importlib.machinery, runpy
find = importlib.machinery.PathFinder.find_spec
hidden = ('torch', 'transformers')
hide = lambda name, *rest: None if name.split('.')[0] in hidden else find(name, *rest)
importlib.machinery.PathFinder.find_spec = staticmethod(hide)
runpy.run_module('gpt_jax', run_name='__main__')
"""


@pytest.fixture(scope='module', params=SIZES)
def folder(request, tmp_path_factory):
    """A published folder of random weights.

    GPT-2 has one special token, Llama a prefix token and a chat template.
    """
    path = tmp_path_factory.mktemp('models') / request.param
    texts = [make_text(seed, 40) for seed in range(40)]
    content = tokenizer.train_bpe(texts, 320).content.decode('utf-8')
    inner = tokenizers.Tokenizer.from_str(content)
    special_tokens = {'bos_token': '<|endoftext|>', 'eos_token': '<|endoftext|>'}
    if request.param == 'llama':
        inner.add_special_tokens(['<s>', '<|user|>', '<|assistant|>'])
        prefix = [('<s>', inner.token_to_id('<s>'))]
        inner.post_processor = tokenizers.processors.TemplateProcessing(
            '<s> $A', '<s> $A $B', prefix
        )
        special_tokens |= {'bos_token': '<s>', 'chat_template': CHAT}
    hf_tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **special_tokens)
    ids = {
        'bos_token_id': hf_tokenizer.bos_token_id,
        'eos_token_id': hf_tokenizer.eos_token_id,
        'vocab_size': len(hf_tokenizer),
    }
    config = transformers.AutoConfig.for_model(
        request.param, **SIZES[request.param], **ids, initializer_range=0.2
    )
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(path)
    hf_tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope='module')
def tasks(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv('HF_DATASETS_CACHE', str(tmp_path_factory.mktemp('cache')))
    yield write_tasks(tmp_path_factory.mktemp('tasks') / 'local')
    patch.undo()


def make_hf_model(folder):
    from lm_eval.models.huggingface import HFLM

    return HFLM(str(folder), device='cpu', batch_size=4, dtype='float32')


@pytest.fixture(scope='module')
def expected(folder, tasks):
    return evaluate(make_hf_model(folder), tasks)


def evaluate(model, tasks, **options):
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    return lm_eval.simple_evaluate(
        model,
        tasks=list(NAMES),
        task_manager=manager,
        bootstrap_iters=0,
        log_samples=True,
        **options,
    )


def get_responses(results, name):
    samples = sorted(results['samples'][name], key=lambda sample: sample['doc_id'])
    return [sample['resps'] for sample in samples]


def check_metrics(results, expected, names, tolerance):
    for name in names:
        for metric, value in expected['results'][name].items():
            if isinstance(value, float):
                approximately = pytest.approx(value, rel=tolerance)
                assert results['results'][name][metric] == approximately, (name, metric)


@pytest.mark.parametrize('axes', [{}, {'data': 2}, {'fsdp': 2, 'tensor': 2}], ids=str)
def test_all_request_types_agree(folder, tasks, expected, axes):
    results = evaluate(LmEvalModel(str(folder), batch_size=4, **axes), tasks)
    both = (results, expected)
    for choices, others in zip(*(get_responses(r, 'local_choices') for r in both), strict=True):
        for ((log_p, greedy),), ((other_log_p, other_greedy),) in zip(choices, others, strict=True):
            assert (log_p, greedy) == (pytest.approx(other_log_p, abs=1e-4), other_greedy)
    for ((total,),), ((other,),) in zip(
        *(get_responses(r, 'local_rolling') for r in both), strict=True
    ):
        assert total == pytest.approx(other, rel=1e-6, abs=1e-4)
    texts = get_responses(expected, 'local_written')
    assert get_responses(results, 'local_written') == texts
    check_metrics(results, expected, NAMES, 1e-5)
    assert 0 < expected['results']['local_choices']['acc_norm,none'] < 1
    assert len({len(text) for ((text,),) in texts}) > 1


def test_special_tokens_and_chat_templates_agree(folder, tasks):
    model, hf_model = LmEvalModel(str(folder)), make_hf_model(folder)
    own = model.text_tokenizer
    assert own.first_id == hf_model.prefix_token_id
    first_text = hf_model.tokenizer.decode([hf_model.prefix_token_id])
    for text in ('cats sat', f'{first_text}cats', 'a<|endoftext|>b', ' '):
        ids = hf_model.tok_encode(text)
        assert own.encode_with_prefix([text])[0].tolist() == ids
        without = hf_model.tok_encode(text, add_special_tokens=False)
        assert own.encode([text])[0].tolist() == without
        assert own.decode(ids) == hf_model.tok_decode(ids)
    if hf_model.tokenizer.chat_template:
        turns = [{'role': 'user', 'content': 'cats?'}, {'role': 'assistant', 'content': ' sat on'}]
        models = (model, hf_model)
        prompt, hf_prompt = (each.apply_chat_template(turns[:1]) for each in models)
        assert prompt == hf_prompt
        text, hf_text = (each.apply_chat_template(turns, False) for each in models)
        assert text == hf_text
        assert model.chat_template(True) == hf_model.chat_template(True)
        results = [evaluate(each, tasks, apply_chat_template=True) for each in models]
        written, hf_written = (get_responses(each, 'local_written') for each in results)
        assert written == hf_written
        log_p = [
            np.array([[pair[0][0] for pair in row] for row in get_responses(each, 'local_choices')])
            for each in results
        ]
        np.testing.assert_allclose(*log_p, atol=1e-4)


def test_the_command_without_torch(tmp_path, tasks):
    """From the command line, with a run folder and two devices."""
    run = trained.folder(tmp_path / 'run', context=CONTEXT)
    names = ['local_choices', 'local_rolling']
    head = [sys.executable, '-c', WITHOUT_TORCH, 'lm-eval', 'run', '--model', 'gpt_jax']
    tail = ['--tasks', ','.join(names), '--include_path', str(tasks)]
    tail += ['--output_path', str(tmp_path / 'out')]
    arguments = f'pretrained={run},data=2,max_length=48'
    result = subprocess.run(
        [*head, '--model_args', arguments, *tail], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    (path,) = (tmp_path / 'out').glob('**/results*.json')
    results = json.loads(path.read_text())
    assert results['config']['model'] == 'gpt_jax'
    expected = evaluate(LmEvalModel(str(run), max_length=48), tasks)
    check_metrics(results, expected, names, 1e-4)
    unknown = subprocess.run(
        [*head, '--model_args', 'pretrained=nowhere/at/all', *tail], capture_output=True, text=True
    )
    assert unknown.returncode == 2
    assert 'gpt-jax lm-eval: nowhere/at/all: ' in unknown.stderr.splitlines()[-1]
