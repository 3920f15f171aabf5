"""What the network sees of a batch: augmented crops in training, test views afterwards. Each device its own images."""

from collections.abc import Callable

from jax import Array
from jax.sharding import Mesh

from alexnet_jax.config import Config
from alexnet_jax.data import augment
from alexnet_jax.networks import columns


def augmentation(config: Config, statistics: augment.Statistics, mesh: Mesh) -> Callable[[Array, Array, Array], Array]:
    """augment(images uint8 [B, H, W, C], key, noise) -> float32 [B, h, w, C]."""

    def per_device(images_BHWC: Array, index_B: Array, key: Array, noise: Array) -> Array:
        size = config.model.image_size
        return augment.training_view(images_BHWC, index_B, key, statistics, noise, data=config.data, size=size)

    return columns.on_images(per_device, mesh)


def test_views(config: Config, statistics: augment.Statistics, mesh: Mesh) -> Callable[[Array, Array], Array]:
    """view(images uint8 [B, H, W, C], n) -> the n-th test view, float32 [B, h, w, C]."""

    def per_device(images_BHWC: Array, _: Array, n: Array) -> Array:
        return augment.test_view(images_BHWC, n, statistics, data=config.data, size=config.model.image_size)

    return columns.on_images(per_device, mesh)
