"""What every test stands on: eight CPU devices, and one cache of compiled programs for the whole run."""

import gc
import os
import signal
import tempfile
from pathlib import Path

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['OPENBLAS_NUM_THREADS'] = '1'  # several workers' threads would wait for each other
# One folder for all workers of a run and the programs that tests start; a fixed name would outlive the code it tests.
if 'GPT_JAX_TEST_CACHE' not in os.environ:
    os.environ['GPT_JAX_TEST_CACHE'] = tempfile.mkdtemp(prefix='gpt_jax_tests_')
CACHE = Path(os.environ['GPT_JAX_TEST_CACHE'])
os.environ['GPT_JAX_COMPILATION_CACHE'] = str(CACHE / 'compilation')
os.environ['XDG_CACHE_HOME'] = str(CACHE)

import jax
import pytest

from configs import base
from gpt_jax import assemble, overrides, runtime
from gpt_jax.model.config import ModelConfig, resolve

gc.set_threshold(100_000, 50, 50)  # tracing makes and drops so many objects that looking for cycles takes a tenth of it
runtime.avoid_known_faults(8)
# Machine code that is not optimized, from the emitters that are older, is made in less than half the time, and nearly
# all of a test's time is that. Later jaxlibs may not know the second flag, and would abort on it.
given = os.environ['XLA_FLAGS']
os.environ['XLA_FLAGS'] = f'{given} --xla_backend_optimization_level=0'
if jax.__version_info__[:2] == (0, 10):
    os.environ['XLA_FLAGS'] += ' --xla_cpu_use_fusion_emitters=false'
jax.config.update('jax_num_cpu_devices', 8)
jax.devices()
os.environ['XLA_FLAGS'] = given
jax.config.update('jax_compilation_cache_dir', os.environ['GPT_JAX_COMPILATION_CACHE'])
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)


@pytest.fixture
def model_config():
    """Makes a small ModelConfig; keywords replace fields."""

    def make(**fields) -> ModelConfig:
        small = {'layers': 2, 'width': 32, 'heads': 4, 'vocab_size': 97, 'context': 16, 'attention_chunk': 0}
        values = overrides.plain(base.get_config())['model'] | small | fields
        return ModelConfig(**resolve(values, 1))

    return make


@pytest.fixture
def settings():
    """Makes Settings of a small run; 'section.field' keys replace fields."""

    def make(fields: dict | None = None) -> assemble.Settings:
        config = overrides.plain(base.get_config())
        small = {
            'model.layers': 2, 'model.width': 32, 'model.heads': 4, 'model.context': 16, 'model.vocab_size': 97,
            'train.batch': 8, 'train.steps': 20, 'mesh.data': 1,
        }  # fmt: skip
        for key, value in (small | (fields or {})).items():
            section, _, field = key.rpartition('.')
            (config[section] if section else config)[field] = value
        return assemble.settings(config, vocab_size=1)

    return make


@pytest.fixture(scope='session')
def source(tmp_path_factory):
    """The config word of a small corpus."""
    from tests import program

    return f'files:{program.corpus(tmp_path_factory.mktemp("corpus"))}'


@pytest.fixture
def hearing():
    """A test run in the background of a shell is born deaf to SIGINT, and so is what it starts; here they hear."""
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, old)
