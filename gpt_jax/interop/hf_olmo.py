"""The config.json of OLMo 2."""

from gpt_jax.core.config import ModelConfig
from gpt_jax.interop.hf_config import FULL_ATTENTION, ConfigFormat, ConfigReader, ConfigValues
from gpt_jax.interop.hf_llama import LLAMA_FIXED, read_common, write_common


def _read_olmo2(reader: ConfigReader) -> ConfigValues:
    reader.require('attention_bias', False)
    return read_common(reader, epsilon=1e-5, kv_heads=None)


def _write_olmo2(model_config: ModelConfig) -> ConfigValues:
    return write_common(model_config) | {'attention_bias': False}


OLMO2 = ConfigFormat(
    fixed={
        **LLAMA_FIXED,
        'block': ('output_norm',),
        'qk_norm': (True,),
        'qk_norm_per_head': (False,),
    },
    checks={},
    attention=(FULL_ATTENTION,),
    read=_read_olmo2,
    write=_write_olmo2,
)
