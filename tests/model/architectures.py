"""Model architectures for tests: every config word once, and common combinations of them."""

MODERN = {
    'norm': 'rms',
    'position': 'rotary',
    'feedforward': 'gated',
    'activation': 'silu',
    'bias': False,
    'tied_head': False,
}
EXPERTS = MODERN | {'feedforward': 'experts', 'experts': 5, 'mlp_width': 24}

ARCHITECTURES = {
    'gpt1': {'block': 'post_norm', 'final_norm': False},
    'gpt2': {},
    'gpt3_banded': {'attention_pattern': ('full', 'window'), 'window': 5},
    'parallel': {'block': 'parallel'},
    'gpt_neox': {'block': 'parallel_two_norms', 'position': 'rotary', 'rotary_fraction': 0.25},
    'layer_scaling': {'attention_layer_scaling': True, 'attention_scale_dim': 3},
    'llama': MODERN | {'kv_heads': 2},
    'mistral': MODERN | {'kv_heads': 2, 'attention_pattern': ('window',), 'window': 6},
    'qwen2': MODERN | {'qkv_bias': True},
    'qwen3': MODERN | {'qk_norm': True, 'head_dim': 16, 'kv_heads': 1},
    'olmo2': MODERN
    | {'block': 'output_norm', 'qk_norm': True, 'qk_norm_per_head': False, 'kv_heads': 2},
    'gemma2': MODERN
    | {'block': 'sandwich_norm', 'norm': 'zero_centered_rms', 'qk_norm': True, 'kv_heads': 2}
    | {'scale_embedding': True, 'attention_scale_dim': 5, 'tied_head': True},
    'olmo3': MODERN
    | {'attention_pattern': ('window', 'full'), 'window': 5, 'window_rotary_base': 700.0}
    | {'rotary_scaling': 'yarn', 'rotary_factor': 4.0, 'rotary_original_context': 64},
    'llama3_scaling': MODERN
    | {'rotary_scaling': 'llama3', 'rotary_factor': 4.0, 'rotary_original_context': 64},
    'linear_scaling': MODERN | {'rotary_scaling': 'linear', 'rotary_factor': 4.0},
    'ntk_scaling': MODERN | {'rotary_scaling': 'ntk', 'rotary_factor': 4.0},
    'yarn_scaling': MODERN
    | {'rotary_scaling': 'yarn', 'rotary_factor': 4.0, 'rotary_original_context': 64},
    'partial_rotary': MODERN | {'rotary_fraction': 0.5},
    'alibi': {'position': 'alibi', 'kv_heads': 2},
    'sink': MODERN | {'attention_sink': True, 'attention_pattern': ('window', 'full'), 'window': 4},
    'softcaps': {'attention_softcap': 3.0, 'logit_softcap': 4.0},
    'reglu_with_biases': {'feedforward': 'gated', 'activation': 'relu'},
    'glu': {'feedforward': 'gated', 'activation': 'sigmoid', 'bias': False},
    'bilinear': {'feedforward': 'gated', 'activation': 'identity', 'bias': False},
    'squared_relu': {'activation': 'squared_relu', 'position': 'none'},
    'exact_gelu': {'activation': 'gelu_exact', 'norm': 'rms'},
    'experts': EXPERTS | {'kv_heads': 2},
    'shared_experts': EXPERTS
    | {'experts_per_token': 3, 'shared_experts': 2, 'normalize_experts': False},
    'switch': {
        'feedforward': 'experts',
        'experts': 4,
        'mlp_width': 40,
        'experts_per_token': 1,
        'activation': 'relu',
    }
    | {'normalize_experts': False, 'capacity_factor': 1.0},
}


def count_layers(name: str) -> int:
    """Two for each form of block and where the layers differ; one where it shows the same."""
    return (
        2
        if name in ('gpt1', 'gpt2', 'gpt3_banded', 'parallel', 'layer_scaling', 'olmo3', 'sink')
        else 1
    )


# The product of activations with each weight that is one matrix, by the letters of the weight.
PRODUCT_TERMS = {
    'DHK': 'BLD,DHK->BLHK',
    'DGK': 'BLD,DGK->BLGK',
    'HKD': 'BLHK,HKD->BLD',
    'DF': 'BLD,DF->BLF',
    'FD': 'BLF,FD->BLD',
    'DU': 'BLD,DU->BLU',
    'UD': 'BLU,UD->BLD',
}
