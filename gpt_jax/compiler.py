"""What is XLA told of a training step, beside the program? Options of its TPU compiler, by kind of device."""

# A step's matrix products may take more of a TPU's fast memory than its compiler's default: larger tiles, which make a
# 354M step's feed-forward a fifth faster (experiments/preflight/).
TILES = {'xla_tpu_scoped_vmem_limit_kib': '65536'}
# Weights are gathered while products go on: a 13B step on 512 chips a seventh shorter (ibid.).
MEANWHILE = dict.fromkeys(
    (
        'xla_enable_async_all_gather', 'xla_tpu_enable_async_collective_fusion',
        'xla_tpu_enable_async_collective_fusion_fuse_all_gather',
        'xla_tpu_enable_async_collective_fusion_multiple_steps', 'xla_tpu_overlap_compute_collective_tc',
    ),
    'true',
)  # fmt: skip
KINDS = ('TPU v5', 'TPU v5 lite', 'TPU v6 lite')


def options(kind: str) -> dict[str, str] | None:
    """For devices that JAX calls so; None: none."""
    return TILES | MEANWHILE if kind in KINDS else None
