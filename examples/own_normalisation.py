"""A normalisation of one's own in place of LRN (section 3.3): here by the root mean square of a column's maps.

python examples/own_normalisation.py
"""

import jax
import jax.numpy as jnp

import alexnet_jax as alexnet

config = alexnet.preset("fashion")


def rms_norm(x: jax.Array) -> jax.Array:
    """x: one column's maps, [B, H, W, C]."""
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6)


forward = alexnet.forward(config.model, norm=rms_norm)

if __name__ == "__main__":
    run = alexnet.fit(config, "runs/rms_norm", forward=forward)
    print(alexnet.evaluate(run.path, crops=10, forward=forward))
