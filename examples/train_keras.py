"""Trains a small Keras classifier with RMSprop, with and without GC.

The job of Keras's tutorial on gradient centralization, on Keras 3 and JAX: the
same initial weights in both arms, `model.fit`, and the accuracies and times of
both. Needs Keras: `pip install -e '.[examples,keras]'`.
"""

import os
from pathlib import Path
import sys
import time

os.environ.setdefault('KERAS_BACKEND', 'jax')

import keras
from matplotlib import pyplot as plt
import tyro

if not __package__:
  sys.path.insert(0, str(Path(__file__).parents[1]))

from examples import data
import optax_gc
import optax_gc.keras


def classifier(images, classes: int) -> keras.Model:
  layers = keras.layers
  return keras.Sequential(
    [
      keras.Input(images.shape[1:]),
      layers.Conv2D(32, 3, padding='same', activation='relu'),
      layers.MaxPooling2D(2),
      layers.Conv2D(64, 3, padding='same', activation='relu'),
      layers.Dropout(0.5),
      layers.Flatten(),
      layers.Dense(128, activation='relu'),
      layers.Dense(classes, activation='softmax'),
    ]
  )


def train(
  images: data.Images, centralize: bool, epochs: int, seed: int
) -> tuple[keras.Model, float]:
  """The trained model, with its history, and the seconds that it took."""
  keras.utils.set_random_seed(seed)  # The same weights and order in both arms.
  model = classifier(images.train[0], int(images.train[1].max()) + 1)
  optimizer = keras.optimizers.RMSprop(1e-3)
  if centralize:
    axes = optax_gc.keras.infer_weight_axes(model, strict=True)
    shapes = {v.path: v for v in model.trainable_variables}
    print(optax_gc.summary(shapes, axes))
    optimizer = optax_gc.keras.centralized(optimizer, axes)
  model.compile(
    optimizer, 'sparse_categorical_crossentropy', metrics=['accuracy']
  )
  start = time.perf_counter()
  model.fit(
    *images.train,
    batch_size=64,
    epochs=epochs,
    validation_data=images.test,
    verbose=0,
  )
  return model, time.perf_counter() - start


def draw(histories: dict[str, dict[str, list[float]]], path: Path) -> None:
  figure, panels = plt.subplots(1, 2, figsize=(9, 3.5), layout='constrained')
  titles = {'loss': 'training loss', 'val_accuracy': 'test accuracy'}
  for panel, (key, title) in zip(panels, titles.items(), strict=True):
    for name, history in histories.items():
      panel.plot(range(1, len(history[key]) + 1), history[key], label=name)
    panel.set(title=title, xlabel='epoch')
    panel.grid(alpha=0.3)
  panels[0].set_yscale('log')
  panels[0].legend()
  path.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(path, dpi=150)


def main(
  dataset: str = 'digits',
  train_size: int | None = None,
  epochs: int = 10,
  seed: int = 0,
  out: Path = Path('out/train_keras'),
) -> dict[str, dict[str, list[float]]]:
  images = data.load(dataset, train_size=train_size)
  histories = {}
  for name in ('RMSprop', 'RMSprop with GC'):
    model, seconds = train(images, name.endswith('GC'), epochs, seed)
    histories[name] = history = model.history.history
    print(
      f'{name}: {seconds:.1f} s; after {epochs} epochs: training loss '
      f'{history["loss"][-1]:.4f}, training accuracy '
      f'{history["accuracy"][-1]:.2%}, test accuracy '
      f'{history["val_accuracy"][-1]:.2%}'
    )
  draw(histories, out / 'curves.png')
  print(
    f'One seed says which way one run went, no more; the curves are in '
    f'{out / "curves.png"}.'
  )
  return histories


if __name__ == '__main__':
  tyro.cli(main)
