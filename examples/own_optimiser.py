"""AdamW with a warm-up and a cosine, as an optimiser of Optax's in place of the config's rule.

    python examples/own_optimiser.py

As fields of the config the same is `rule="adamw"` and `schedule=Schedule("cosine", warmup=2.0)`.
"""

import optax

import alexnet_jax as alexnet

config = alexnet.preset("fashion")
epoch = 10_000 // config.optim.batch  # steps

rate = optax.warmup_cosine_decay_schedule(0.0, 1e-3, warmup_steps=2 * epoch, decay_steps=28 * epoch)
optimiser = optax.adamw(rate, weight_decay=0.05)

if __name__ == "__main__":
    run = alexnet.fit(config, "runs/adamw", optimiser=optimiser)
    print(alexnet.evaluate(run.path, crops=10))
