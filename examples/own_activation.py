"""GELU in place of ReLU (section 3.1): a field of the config.

python examples/own_activation.py
"""

from dataclasses import replace

import alexnet_jax as alexnet

config = alexnet.preset("fashion")
config = replace(config, model=replace(config.model, activation="gelu"))

if __name__ == "__main__":
    run = alexnet.fit(config, "runs/gelu")
    print(alexnet.evaluate(run.path, crops=10))
