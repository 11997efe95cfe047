"""Which operation belongs to which part of a GPT's training step? By the names that the model's modules give."""

from collections.abc import Mapping

# The first that is found in an operation's name takes it.
PARTS: Mapping[str, str] = {
    'attention, scores': r'splash|BG[SM][KM],BG[SM][KM]->|/attention/(reduce_max|exp|select_n)',
    'attention, projections': r'/attention/',
    'feed-forward, routing': r'/feedforward/.*(sort|top_k|ragged|(?<!all_)gather|(?<!reduce_)scatter)',
    'feed-forward': r'/feedforward/',
    'norms': r'/(norm_1|norm_2|norm)/',
    'embedding': r'/(embedding|position)/|jvp\(GPT\)+/(gather|scatter)',
    'layers, in and out': r'\(GPT\)|/blocks/',
    'head and loss': r'jvp\(\)|BLD,VD|logsumexp|take_along_axis',
}
REST = 'optimizer, gradient norm'
