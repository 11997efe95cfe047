"""What did one call of measure.py find? The table for a person and the summary for a program, both from its records."""

from typing import Any

HEAD = ('shape', 'what', 'batch', 'tokens/s', 'MFU', 'memory GiB', 'compile s')
SUMMARY = (
    'framework', 'variant', 'batch', 'tokens_per_second', 'step_seconds', 'model_flops_utilization',
    'peak_memory_bytes', 'compile_seconds', 'final', 'timed_steps',
)  # fmt: skip
FAILED = ('shape', 'framework', 'variant', 'batch', 'failed')
DEVICE = ('device', 'platform', 'peak_flops', 'peak_flops_source', 'flops_convention', 'xla_flags', 'versions')


def table(records: list[dict[str, Any]]) -> str:
    """A line per measurement, in order; a star marks the figure of its shape."""
    figures = [figure(records, r['shape']) for r in records]
    rows = [HEAD, *(_row(r, r is best) for r, best in zip(records, figures, strict=True))]
    widths = [max(len(row[i]) for row in rows if len(row) == len(HEAD)) for i in range(len(HEAD))]
    return '\n'.join('  '.join(c.ljust(w) for c, w in zip(row, widths, strict=False)).rstrip() for row in rows)


def _row(record: dict[str, Any], starred: bool) -> tuple[str, ...]:
    what = f'{record["framework"]} {"+".join(record["variant"])}{" *" if starred else ""}'
    if 'failed' in record:
        return record['shape'], what, str(record['batch']), record['failed']
    return (
        record['shape'],
        what,
        str(record['batch']),
        f'{record["tokens_per_second"]:,.0f}',
        f'{record["model_flops_utilization"]:.1%}',
        f'{record["peak_memory_bytes"] / 2**30:.2f}',
        f'{record["compile_seconds"]:.1f}{" cached" if record.get("compile_from_cache") else ""}',
    )


def figure(records: list[dict[str, Any]], shape: str) -> dict[str, Any] | None:
    """gpt_jax's figure of a shape: the final measurement, or where time did not allow one the fastest."""
    ours = [r for r in records if r['shape'] == shape and r['framework'] == 'gpt_jax' and 'failed' not in r]
    return max(ours, key=lambda r: (r['final'], r['tokens_per_second']), default=None)


def summary(
    records: list[dict[str, Any]], device: dict[str, Any], shapes: list[str], not_done: list[str], seconds: float
) -> dict[str, Any]:
    """The figure of each shape, PyTorch's beside it with the ratio of the two, what failed and what was not done."""
    found: dict[str, Any] = {}
    for shape in shapes:
        ours = figure(records, shape)
        peers = [r for r in records if r['shape'] == shape and r['framework'] != 'gpt_jax' and 'failed' not in r]
        peer = max(peers, key=lambda r: r['tokens_per_second'], default=None)
        found[shape] = {
            'gpt_jax': ours and {name: ours[name] for name in SUMMARY},
            'torch': peer and {name: peer[name] for name in SUMMARY if name in peer},
            'ratio': ours['tokens_per_second'] / peer['tokens_per_second'] if ours and peer else None,
        }
    return {
        **{name: device[name] for name in DEVICE},
        'shapes': found,
        'failed': [{name: r[name] for name in FAILED} for r in records if 'failed' in r and not r.get('out_of_time')],
        'not_done': not_done,
        'seconds': seconds,
    }
